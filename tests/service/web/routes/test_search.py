"""POST /search with real images, network, index and files."""

import base64

import pytest

from tests.embedding.test_decoding import png_header
from tests.images import colour_image, encode, png
from tests.service.conftest import PRODUCTS, product_image

PATHS = ("/search", "/v1/search")
IMAGE = encode(product_image("birch"))


def problem_of(response):
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert body["type"] == f"/problems/{body['code']}"
    assert body["request_id"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize("path", PATHS)
def test_an_image_of_the_catalogue_finds_its_product_with_a_score_of_one(client, path):
    response = client.post(path, files={"image": IMAGE})

    assert response.status_code == 200
    answer = response.json()
    best = answer["hits"][0]
    assert (best["product_id"], best["title"], best["attributes"]) == ("birch", "birch", {})
    assert best["score"] == pytest.approx(1.0, abs=1e-5)
    assert answer["release_id"] == client.get("/readyz").json()["release_id"]
    assert set(answer["timing"]) == {"decode", "wait", "embed", "search", "group", "total"}


def test_returns_one_hit_per_product_best_first(client):
    hits = client.post("/search", files={"image": IMAGE}).json()["hits"]

    assert sorted(hit["product_id"] for hit in hits) == sorted(PRODUCTS)
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_form_raw_body_and_json_give_the_same_answer(client):
    as_form = client.post("/search", files={"image": ("photo.png", IMAGE, "image/png")}, data={"k": "2"})
    as_body = client.post("/search?k=2", content=IMAGE, headers={"Content-Type": "image/png"})
    encoded = base64.b64encode(IMAGE).decode()
    as_json = client.post("/search", json={"image": encoded, "k": 2})
    as_data_url = client.post("/search?k=2", json={"image": f"data:image/png;base64,{encoded}"})

    answers = [response.json()["hits"] for response in (as_form, as_body, as_json, as_data_url)]
    assert len(answers[0]) == 2
    assert all(answer == answers[0] for answer in answers)


def test_the_declared_type_of_a_raw_image_does_not_matter(client):
    response = client.post("/search", content=IMAGE, headers={"Content-Type": "image/jpeg; q=1"})

    assert response.json()["hits"][0]["product_id"] == "birch"


@pytest.mark.parametrize("how", ["query", "form", "json"])
def test_min_score_omits_lower_scores(client, how):
    if how == "query":
        response = client.post("/search?min_score=0.999", files={"image": IMAGE})
    elif how == "form":
        response = client.post("/search", files={"image": IMAGE}, data={"min_score": "0.999"})
    else:
        response = client.post("/search", json={"image": base64.b64encode(IMAGE).decode(), "min_score": 0.999})

    assert [hit["product_id"] for hit in response.json()["hits"]] == ["birch"]


def test_examples_are_never_returned(client):
    example = encode(product_image("amber", 2))

    hits = client.post("/search", files={"image": example}).json()["hits"]

    assert max(hit["score"] for hit in hits) < 0.9999


def test_image_urls_can_be_fetched(client):
    hit = client.post("/search", files={"image": IMAGE}).json()["hits"][0]

    response = client.get(hit["image_url"])

    assert response.content == IMAGE


@pytest.mark.parametrize(
    ("content", "status", "code", "message"),
    [
        (b"hello", 415, "unsupported-image-format", "not an image in a supported format"),
        (b"", 422, "empty-body", "empty"),
        (IMAGE[: len(IMAGE) // 2], 422, "invalid-image", "truncated"),
        (png_header(50_000, 50_000), 413, "image-too-large", "at most 50,000,000"),
        (b"\x89PNG" + bytes(400_000), 413, "body-too-large", "larger than"),
        (encode(colour_image("red").convert("F"), "TIFF"), 415, "unsupported-image-format", "floating-point samples"),
    ],
    ids=["not an image", "empty", "truncated", "gigapixels", "too many bytes", "float"],
)
@pytest.mark.parametrize("how", ["form", "raw", "json"])
def test_unusable_images_are_refused(client, how, content, status, code, message):
    if how == "form":
        response = client.post("/search", files={"image": ("a.png", content)})
    elif how == "raw":
        response = client.post("/search", content=content, headers={"Content-Type": "image/png"})
    else:
        response = client.post("/search", json={"image": base64.b64encode(content).decode()})

    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (status, code)
    assert message in problem["detail"]


@pytest.mark.parametrize("k", ["0", "-1", str(10**9), "10001", "ten", "1.5", ""])
@pytest.mark.parametrize("how", ["query", "form", "json"])
def test_a_k_out_of_range_is_refused(client, k, how):
    if how == "query":
        response = client.post(f"/search?k={k}", files={"image": IMAGE})
    elif how == "form":
        response = client.post("/search", files={"image": IMAGE}, data={"k": k})
    else:
        response = client.post("/search", json={"image": base64.b64encode(IMAGE).decode(), "k": k})

    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (422, "invalid-request")
    assert "k" in problem["detail"]


@pytest.mark.parametrize("min_score", ["nan", "2", "-1.01", "inf", "x"])
def test_a_min_score_out_of_range_is_refused(client, min_score):
    for response in (
        client.post(f"/search?min_score={min_score}", files={"image": IMAGE}),
        client.post("/search", files={"image": IMAGE}, data={"min_score": min_score}),
    ):
        problem = problem_of(response)
        assert problem["code"] == "invalid-request"
        assert "min_score" in problem["detail"]


@pytest.mark.parametrize(("query", "message"), [("kk=3", "unknown parameter 'kk'"), ("k=5&k=6", "'k' twice")])
def test_unknown_and_repeated_parameters_are_refused(client, query, message):
    problem = problem_of(client.post(f"/search?{query}", files={"image": IMAGE}))

    assert problem["code"] == "invalid-request"
    assert message in problem["detail"]


@pytest.mark.parametrize("body", ['"k": true', '"k": "3"', '"k": 0', '"min_score": NaN', '"min_score": "1"'])
def test_json_values_of_a_wrong_type_are_reported(client, body):
    content = f'{{"image": "{base64.b64encode(IMAGE).decode()}", {body}}}'

    problem = problem_of(client.post("/search", content=content, headers={"Content-Type": "application/json"}))

    assert problem["code"] == "invalid-request"
    assert "(got " in problem["detail"] or "NaN" in problem["detail"]


def test_a_parameter_in_both_url_and_body_is_refused(client):
    problem = problem_of(client.post("/search?k=2", files={"image": IMAGE}, data={"k": "3"}))

    assert (problem["code"], problem["detail"]) == (
        "invalid-request",
        "k is given in both the URL and the body; send it once",
    )


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/pdf", "image"]
)
def test_unsupported_content_types_are_refused_with_those_supported(client, content_type):
    problem = problem_of(client.post("/search", content=IMAGE, headers={"Content-Type": content_type}))

    assert (problem["status"], problem["code"]) == (415, "unsupported-content-type")
    assert content_type in problem["detail"]
    assert "multipart/form-data" in problem["detail"]


def test_a_missing_content_type_is_refused(client):
    problem = problem_of(client.post("/search", content=IMAGE))

    assert "no Content-Type" in problem["detail"]


def test_an_empty_body_is_refused(client):
    for content_type in ("image/png", "application/json", "multipart/form-data; boundary=x"):
        assert problem_of(client.post("/search", headers={"Content-Type": content_type}))["code"] == "empty-body"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("image", IMAGE), ("image", IMAGE)], "the field 'image' twice"),
        ([("image", IMAGE), ("other", IMAGE)], "unknown field 'other'; supported are image, k, min_score"),
        ([("photo", IMAGE)], "unknown field 'photo'; supported are image, k, min_score"),
        ([("k", b"3")], "is a file and must be text"),
    ],
)
def test_forms_without_exactly_one_image_are_refused(client, files, message):
    problem = problem_of(client.post("/search", files=[(name, ("a.png", content)) for name, content in files]))

    assert (problem["status"], problem["code"]) == (422, "invalid-form")
    assert message in problem["detail"]


def test_unknown_repeated_and_misplaced_form_fields_are_refused(client):
    unknown = client.post("/search", files={"image": IMAGE}, data={"top": "3"})
    text_in_place_of_a_file = client.post("/search", files={"k": (None, "3")}, data={"image": "photo.jpg"})
    twice = client.post("/search", files=[("image", ("a", IMAGE)), ("k", (None, "1")), ("k", (None, "2"))])
    many = client.post("/search", files=[("image", ("a", IMAGE)), *[("k", (None, "1"))] * 50])

    assert "unknown field 'top'" in problem_of(unknown)["detail"]
    assert "image=@FILE" in problem_of(text_in_place_of_a_file)["detail"]
    assert "'k' twice" in problem_of(twice)["detail"]
    assert problem_of(many)["code"] == "invalid-form"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary in here"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nPNG',
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: nonsense\r\n\r\nPNG\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nPNG\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x; charset=none", b"--x\r\n\r\nPNG\r\n--x--\r\n"),
    ],
)
def test_damaged_forms_are_client_errors(client, content_type, body):
    problem = problem_of(client.post("/search", content=body, headers={"Content-Type": content_type}))

    assert problem["code"] == "invalid-form"


@pytest.mark.parametrize("text", ["not base64!", "QUJ", "QUJD*", "ärger"])
def test_invalid_base64_is_refused(client, text):
    problem = problem_of(client.post("/search", json={"image": text}))

    assert (problem["status"], problem["code"]) == (422, "invalid-base64")


@pytest.mark.parametrize("body", [b"{", b"[]", b"3", b'{"photo": "x"}', b'{"image": 3}', b'{"image": "QUJD", "x": 1}'])
def test_json_of_another_structure_is_refused(client, body):
    problem = problem_of(client.post("/search", content=body, headers={"Content-Type": "application/json"}))

    assert problem["code"] == "invalid-request"


def test_reading_a_chunked_body_ends_at_the_limit(client):
    def endless():
        for _ in range(1000):
            yield bytes(100_000)

    response = client.post("/search", content=endless(), headers={"Content-Type": "image/png"})

    assert problem_of(response)["code"] == "body-too-large"


def test_a_body_with_too_large_a_content_length_is_refused_before_it_is_read(client):
    headers = {"Content-Type": "image/png", "Content-Length": str(2**40)}

    assert problem_of(client.post("/search", content=b"x", headers=headers))["code"] == "body-too-large"


def test_an_image_of_exactly_the_limit_is_accepted(client):
    padded = png("red") + bytes(300_000 - len(png("red")))

    for response in (
        client.post("/search", content=padded, headers={"Content-Type": "image/png"}),
        client.post("/search", files={"image": padded}),
        client.post("/search", json={"image": base64.b64encode(padded).decode()}),
    ):
        assert response.status_code == 200


def test_errors_of_the_framework_are_problems_too(client):
    assert problem_of(client.get("/search"))["code"] == "method-not-allowed"
    assert problem_of(client.get("/nowhere"))["code"] == "not-found"


def test_valid_request_ids_of_a_gateway_are_kept(client):
    assert client.get("/livez", headers={"X-Request-ID": "abc-123"}).headers["x-request-id"] == "abc-123"
    for bad in ("a b", "x" * 65, 'a"}', ""):
        given = client.get("/livez", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert given != bad
        assert len(given) == 32


def test_an_unexpected_error_is_not_disclosed(client, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("service.serving.engine.decode_image", fail)

    response = client.post("/search", files={"image": IMAGE})

    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (500, "internal-error")
    assert "secret" not in response.text
