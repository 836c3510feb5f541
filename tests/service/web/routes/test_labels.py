"""Labels over HTTP: all kinds of bodies, errors with status and code, lists and images."""

import asyncio
import base64
import hashlib
import json

import pytest

from service.labels import sources as label_sources
from service.releases.build import build_release
from tests.images import encode, png
from tests.service.conftest import product_image
from tests.service.fixtures.imports import failure, perform, performed
from tests.service.fixtures.labels import KEY, admin_client, copied_shop, packed, problem, start_threads
from tests.service.labels.test_applying import digest_of, history_of, id_of, images_of

PATH = "/v1/admin/labels"


def post(client, content, content_type, **params):
    return client.post(PATH, content=content, headers={"Content-Type": content_type}, params=params)


def post_rows(client, *rows, **params):
    return client.post(PATH, json={"labels": list(rows)}, params=params)


@pytest.fixture(scope="module")
def importing_shop(shop_settings, tmp_path_factory, new_address):
    """A copy of the shop in which tests queue operations that change no image."""
    with copied_shop(shop_settings, tmp_path_factory.mktemp("changed-shop") / "home", new_address) as opened:
        yield opened


@pytest.fixture(scope="module")
def importing_admin(importing_shop):
    with admin_client(importing_shop.settings) as opened:
        start_threads(opened)
        yield opened


def image_id(product_id, image_bytes):
    return hashlib.sha256(f"{product_id}\0{hashlib.sha256(image_bytes).hexdigest()}".encode()).hexdigest()[:20]


def counts(response):
    assert response.status_code == 200, response.text
    body = response.json()
    return body["num_added"], body["num_changed"], body["num_unchanged"], body["num_failed"]


def test_json_rows_change_labels_and_add_images(admin, admin_shop):
    red = base64.b64encode(png("red")).decode()

    response = post_rows(
        admin,
        {"image_id": id_of("birch"), "label": "wood"},
        {"sha256": digest_of("amber"), "product_id": "amber", "label": "gem"},
        {"image_base64": red, "product_id": "cedar"},
        {"image_id": "unknown", "label": "x"},
    )

    assert counts(response) == (1, 2, 0, 1)
    (error,) = response.json()["errors"]
    assert error["location"] == "labels[3]"
    (report,) = (admin_shop.settings.home / "reports").glob("labels-*.json")
    assert json.loads(report.read_text())["errors"] == [error]
    assert images_of(admin_shop)[id_of("birch")][2:5] == ("wood", "admin", "http")


def imported(admin, shop, response):
    """Import a table or an archive, and return the counts of the report."""
    shown = performed(admin, shop, response)
    assert (shown["state"], shown["kind"]) == ("succeeded", "labels"), shown
    report = shown["result"]["report"]
    return report["num_added"], report["num_changed"], report["num_unchanged"], report["num_failed"]


def test_csv_rows_change_labels(admin, admin_shop):
    response = post(admin, f"image_id,label\n{id_of('birch')},wood\n{id_of('amber')},\n", "text/csv; charset=utf-8")

    assert response.headers["location"] == f"/v1/operations/{response.json()['operation_id']}"
    assert imported(admin, admin_shop, response) == (0, 1, 1, 0)
    assert images_of(admin_shop)[id_of("birch")][2:5] == ("wood", "admin", "http")


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/ndjson", "application/jsonl"])
def test_ndjson_rows_change_labels_and_add_images(admin, admin_shop, content_type):
    rows = [
        {"image_id": id_of("birch"), "label": "wood"},
        {"image_base64": base64.b64encode(png("red")).decode(), "label": "cedar"},
    ]

    response = post(admin, "\n".join(json.dumps(row) for row in rows), content_type)

    assert imported(admin, admin_shop, response) == (1, 1, 0, 0)


def test_a_zip_of_a_folder_per_class_adds_examples(admin, admin_shop):
    content = packed({"photos/birch/1.png": png("red"), "photos/amber/2.png": png("blue"), "photos/zebra/3.png": b"x"})

    response = post(admin, content, "application/zip")

    assert imported(admin, admin_shop, response) == (2, 0, 0, 1)
    assert images_of(admin_shop)[image_id("birch", png("red"))][1] == "example"
    assert imported(admin, admin_shop, post(admin, content, "application/x-zip-compressed"))[2] == 2


def test_a_zip_with_a_table_is_read_through_it(admin, admin_shop):
    table = "product_id,image,label\nbirch,images/1.png,\namber,images/none.png,\n"

    response = post(admin, packed({"labels.csv": table, "images/1.png": png("red")}), "application/zip")

    assert imported(admin, admin_shop, response) == (1, 0, 0, 1)
    (error,) = admin.get(f"{response.headers['location']}/errors").json()["errors"]
    assert error["location"] == "labels.csv:3"
    assert error["message"].startswith("the image 'images/none.png' does not exist")


def test_a_form_adds_one_image_with_its_label(admin, admin_shop):
    response = admin.post(
        PATH, files={"image": ("a.png", png("red"))}, data={"product_id": "birch", "label": "wood", "labelled_by": "Bo"}
    )

    assert counts(response) == (1, 0, 0, 0)
    row = images_of(admin_shop)[image_id("birch", png("red"))]
    assert row[1:5] == ("example", "wood", "Bo", "http (key admin)")


def test_a_form_may_contain_a_table_or_an_archive(admin, admin_shop):
    table = f"image_id,label\n{id_of('birch')},wood\n"
    archive = packed({"birch/1.png": png("red")})

    forms = [
        ({"file": ("l.csv", table)}, {"source": "survey", "labelled_by": "Bo"}, (0, 1, 0, 0)),
        ({"file": ("l.zip", archive)}, {}, (1, 0, 0, 0)),
        ({"archive": ("l", archive)}, {}, (0, 0, 1, 0)),
    ]
    for files, data, expected in forms:
        assert imported(admin, admin_shop, admin.post(PATH, files=files, data=data)) == expected
    assert images_of(admin_shop)[id_of("birch")][2:5] == ("wood", "Bo", "survey (key admin)")


def test_the_author_and_source_of_labels_are_recorded(admin, admin_shop):
    post_rows(admin, {"image_id": id_of("birch"), "label": "wood"}, labelled_by="Ada", source="survey 7")
    post_rows(admin, {"image_id": id_of("birch"), "label": "tree", "labelled_by": "Bo"}, source="review")

    assert [row[1:] for row in history_of(admin_shop)] == [
        (None, "wood", "Ada", "survey 7 (key admin)"),
        ("wood", "tree", "Bo", "review"),
    ]


def test_a_dry_run_writes_nothing(admin, admin_shop):
    before = images_of(admin_shop)
    rows = {"image_id": id_of("birch"), "label": "wood"}

    queued = post(admin, packed({"birch/1.png": png("red")}), "application/zip", dry_run=True)
    shown = performed(admin, admin_shop, queued)
    answered = post_rows(admin, rows, dry_run=True)

    assert (shown["result"]["report"]["num_added"], shown["result"]["report"]["dry_run"]) == (1, True)
    assert (counts(answered), answered.json()["dry_run"]) == ((0, 1, 0, 0), True)
    assert images_of(admin_shop) == before


BAD_BODIES = [
    ("", "text/csv", 422, "empty-body", "0 bytes"),
    ("", "application/json", 422, "empty-body", "labels"),
    ("", "application/zip", 422, "empty-body", "0 bytes"),
    ("{", "application/json", 422, "invalid-labels", "not JSON"),
    ("[]", "application/json", 422, "invalid-labels", "only a list of rows"),
    ('{"labels": {}}', "application/json", 422, "invalid-labels", "list of rows"),
    ('{"labels": [], "dry_run": true}', "application/json", 422, "invalid-labels", "only a list of rows"),
    ('{"labels": []}', "application/json", 422, "invalid-labels", "it has no rows"),
    ('{"labels": [NaN]}', "application/json", 422, "invalid-labels", "not a JSON number"),
    ("[" * 100_000, "application/json", 422, "invalid-labels", "nested too deeply"),
    (b"\xff\xfe", "application/json", 422, "invalid-labels", "cannot be read"),
    ('{"labels": [{"image_id": "a", "label": "b"}]}', "application/json", 422, "invalid-labels", "labels[0]: the cat"),
    ("no zip", "application/zip", 422, "invalid-archive", "only zip archives are supported"),
    (packed({"../evil/1.png": png("red")}), "application/zip", 422, "invalid-archive", "leads out"),
    (packed({"birch/1.png": png("red")})[:-30], "application/zip", 422, "invalid-archive", "truncated"),
    ("x", "text/plain", 415, "unsupported-content-type", "'text/plain' is not supported; send application/json"),
    (png("red"), "image/png", 415, "unsupported-content-type", "send application/json"),
    ("x", "", 415, "unsupported-content-type", "no Content-Type"),
    ("x" * 200_001, "text/csv", 413, "body-too-large", "200,000 bytes"),
    ("x", "multipart/form-data", 422, "invalid-form", "no boundary"),
]


# Found by the worker: none of the rows can be used.
UNUSABLE = [
    ("image_id,label\n", "text/csv", "it has no rows"),
    ("image_id,label\na,b\n", "text/csv", "labels.csv:2: the catalogue has no image"),
    ("image,label\na.png,birch\n", "text/csv", "was not sent; send a zip"),
    ("image_id;label\n", "text/csv", "it has no rows"),
    (b"image_id,label\n\xe4,x\n", "text/csv", "save it as UTF-8"),
    ("not json\n", "application/x-ndjson", "labels.ndjson:1: not JSON"),
    (packed({}), "application/zip", "the archive contains no folders with images"),
    (packed({"a.txt": b"x"}), "application/zip", "no folders with images"),
    (packed({"birch/1.png": b"x"}), "application/zip", "supported format"),
    (packed({"labels.csv": "image,label\n../x.png,birch\n"}), "application/zip", "not in the a"),
    (packed({"birch/big.png": b"x" * 150_001}), "application/zip", "at most 150,000"),
]


@pytest.mark.parametrize(("content", "content_type", "detail"), UNUSABLE)
def test_an_upload_without_a_usable_row_fails_with_its_first_reasons(
    importing_admin, importing_shop, content, content_type, detail
):
    before = images_of(importing_shop)

    code, found = failure(performed(importing_admin, importing_shop, post(importing_admin, content, content_type)))

    assert code == "invalid-labels"
    assert detail in found
    assert str(importing_shop.settings.home) not in found
    assert images_of(importing_shop) == before


@pytest.mark.parametrize(("content", "content_type", "status", "code", "detail"), BAD_BODIES)
def test_an_invalid_body_changes_nothing(shared_admin, shared_shop, content, content_type, status, code, detail):
    before = images_of(shared_shop)

    found = problem(post(shared_admin, content, content_type))

    assert found[:2] == (status, code)
    assert detail in found[2]
    assert str(shared_shop.settings.home) not in found[2]
    assert images_of(shared_shop) == before


@pytest.mark.parametrize(
    ("files", "data", "code", "detail"),
    [
        ({"image": ("a.png", png("red"))}, {}, "invalid-labels", "neither a product_id nor a label"),
        ({"image": ("a.png", b"x")}, {"label": "birch"}, "invalid-labels", "image.png: the bytes are"),
        ({"image": ("a.png", png("red"))}, {"product_id": "zebra"}, "invalid-labels", "import the product first"),
        ({"image": ("a.png", b"")}, {"label": "birch"}, "empty-body", "0 bytes"),
        ({"file": ("a.csv", "image_id,label\n")}, {"label": "birch"}, "invalid-form", "'label' requires a file field"),
        ({"file": ("a.txt", "x")}, {}, "invalid-archive", "only zip archives are supported"),
        ({"archive": ("a.csv", "image_id,label\na,b\n")}, {}, "invalid-archive", "only zip archives are supported"),
        ({"photo": ("a.png", b"x")}, {}, "invalid-form", "unknown field 'photo'"),
        ({"image": ("a.png", png("red"))}, {"role": "catalogue"}, "invalid-form", "unknown field 'role'"),
        ({"image": ("a.png", png("red"))}, {"label": "birch", "source": "a\nb"}, "invalid-request", "source"),
    ],
)
def test_an_invalid_form_changes_nothing(shared_admin, shared_shop, files, data, code, detail):
    before = images_of(shared_shop)

    found = problem(shared_admin.post(PATH, files=files, data=data))

    assert found[:2] == (422, code)
    assert detail in found[2]
    assert images_of(shared_shop) == before


def test_a_chunked_body_over_the_limit_is_refused(shared_admin):
    response = shared_admin.post(PATH, content=(b"x" * 50_000 for _ in range(5)), headers={"Content-Type": "text/csv"})

    assert problem(response)[:2] == (413, "body-too-large")


def test_a_json_body_may_hold_one_image_of_the_largest_size(shared_admin, monkeypatch):
    monkeypatch.setattr("service.web.bodies.labels._MIN_JSON_LIMIT_BYTES", 0)
    row = {"image_base64": base64.b64encode(b"x" * 150_000).decode(), "label": "birch"}

    assert problem(post_rows(shared_admin, row))[:2] == (422, "invalid-labels")
    assert problem(post_rows(shared_admin, row, row))[:2] == (413, "body-too-large")


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({"dryrun": "true"}, "dryrun"),
        ({"dry_run": "perhaps"}, "dry_run"),
        ({"labelled_by": "x" * 201}, "longer than 200"),
        ({"labelled_by": "a\0b"}, "contains a NUL character"),
        ({"source": "x" * 201}, "longer than 200"),
    ],
)
def test_an_unknown_or_invalid_parameter_is_refused(shared_admin, shared_shop, params, detail):
    before = images_of(shared_shop)

    found = problem(post_rows(shared_admin, {"image_id": id_of("birch"), "label": "x"}, **params))

    assert found[:2] == (422, "invalid-request")
    assert detail in found[2]
    assert images_of(shared_shop) == before


def test_a_value_in_both_the_url_and_the_form_is_refused(shared_admin):
    response = shared_admin.post(
        PATH, files={"image": ("a.png", png("red"))}, data={"label": "birch", "source": "a"}, params={"source": "b"}
    )

    assert problem(response) == (422, "invalid-request", "source is given in both the URL and the form; send it once")


def test_every_request_needs_the_key(shared_admin, shared_shop):
    before = images_of(shared_shop)
    routes = [("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/counts"), ("GET", f"{PATH}/{id_of('birch')}")]
    routes.append(("GET", f"/v1/admin/media/{digest_of('birch', 2)}.png"))
    for method, path in routes:
        content = post_rows if method == "POST" else None
        for headers, code in (({"Authorization": ""}, "missing-key"), ({"Authorization": "Bearer x"}, "invalid-key")):
            body = {"labels": [{"image_id": id_of("birch"), "label": "x"}]} if content else None
            response = shared_admin.request(method, path, json=body, headers=headers)
            assert problem(response)[:2] == (401, code)

    assert images_of(shared_shop) == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(5, "Input/output error"), (503, "media-unavailable", "media-error")),
        (OSError(28, "No space left on device"), (507, "storage-full", "storage-full")),
    ],
    ids=["broken", "full"],
)
def test_a_broken_or_full_store_is_reported_without_its_location(admin, admin_shop, monkeypatch, error, expected):
    def fail(*_):
        raise error

    def break_store(point):
        if point == "before import":
            monkeypatch.setattr("embedding.whole_files.os.fsync", fail)

    queued = post(admin, packed({"birch/1.png": png("red")}), "application/zip").json()
    before = images_of(admin_shop)

    perform(admin_shop, queued["operation_id"], on_point=break_store)
    code, detail = failure(admin.get(queued["links"]["self"]).json())
    answered = problem(admin.post(PATH, files={"image": ("a.png", png("red"))}, data={"label": "birch"}))

    assert (*answered[:2], code) == expected
    assert str(admin_shop.settings.home) not in answered[2] + detail
    assert images_of(admin_shop) == before


def test_a_line_too_long_for_memory_is_refused(admin, admin_shop, monkeypatch):
    monkeypatch.setattr(label_sources, "_MAX_LINE_BYTES", 1000)

    code, detail = failure(performed(admin, admin_shop, post(admin, "x" * 1001, "application/x-ndjson")))

    assert code == "invalid-labels"
    assert "line 1 has more than 1,000 bytes" in detail


def test_a_client_that_disconnects_leaves_no_file(shared_shop, shared_admin):
    """The client disconnects after a part of the body: no file is left, and nothing is changed."""
    before = images_of(shared_shop)
    messages = [{"type": "http.request", "body": b"image_id,label\n", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"text/csv"), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "",
        "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1),
    }  # fmt: skip

    asyncio.run(shared_admin.app({**scope, "app": shared_admin.app}, receive, send))

    assert sent[0]["status"] == 499
    assert list((shared_shop.settings.home / "uploads").iterdir()) == []
    assert images_of(shared_shop) == before


@pytest.fixture(scope="module")
def relabelled_admin(shop_settings, tmp_path_factory, new_address, small_checkpoint):
    """A client of a shop with an active release and one label that was changed since."""
    with (
        copied_shop(shop_settings, tmp_path_factory.mktemp("relabelled") / "home", new_address) as opened,
        admin_client(opened.settings) as client,
    ):
        build_release(opened, checkpoint=small_checkpoint)
        start_threads(client)
        post_rows(client, {"image_id": id_of("birch", 2), "label": "wood"}, labelled_by="Ada")
        yield client


def test_images_are_listed_with_their_labels(relabelled_admin):
    everything = relabelled_admin.get(PATH).json()
    wood = relabelled_admin.get(PATH, params={"label": "wood"}).json()["labels"]

    assert len(everything["labels"]) == 9
    assert everything["next"] is None
    assert [row["image_id"] for row in everything["labels"]] == sorted(row["image_id"] for row in everything["labels"])
    assert {row["image_id"]: row["is_new"] for row in everything["labels"] if row["is_new"]} == {
        id_of("birch", 2): True
    }
    (row,) = wood
    assert row["state"] in ("train", "validation", "test")
    assert row["labelled_at"].endswith(("Z", "+00:00"))
    assert {
        name: row[name] for name in ("product_id", "label", "role", "labelled_by", "label_source", "image_url")
    } == {
        "product_id": "birch",
        "label": "wood",
        "role": "example",
        "labelled_by": "Ada",
        "label_source": "http (key admin)",
        "image_url": f"/v1/admin/media/{digest_of('birch', 2)}.png",
    }


def test_lists_are_filtered_and_paged(shared_admin):
    pages, after = [], None
    while True:
        page = shared_admin.get(PATH, params={"limit": 4, **({"after": after} if after else {})}).json()
        pages.append(page["labels"])
        if (after := page["next"]) is None:
            break
    roles = shared_admin.get(PATH, params={"role": "example"}).json()["labels"]
    states = {state: shared_admin.get(PATH, params={"state": state}).json()["labels"] for state in ("train", "test")}

    assert [len(page) for page in pages] == [4, 4, 1]
    assert {row["role"] for row in roles} == {"example"}
    assert all(row["state"] == state for state, rows in states.items() for row in rows)
    assert shared_admin.get(PATH, params={"label": "nobody's"}).json() == {"labels": [], "next": None}


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"role": "queen"}, {"state": "held"}, {"lable": "x"}]
)
def test_an_unknown_or_invalid_filter_is_refused(shared_admin, params):
    assert problem(shared_admin.get(PATH, params=params))[:2] == (422, "invalid-request")


def test_images_are_counted_by_class_and_in_total(relabelled_admin):
    body = relabelled_admin.get(f"{PATH}/counts").json()
    second = relabelled_admin.get(f"{PATH}/counts", params={"limit": 1, "after": "amber"}).json()

    assert (body["watermark"], body["release_watermark"], body["num_classes"], body["next"]) == (13, 12, 4, None)
    assert (body["total"]["num_images"], body["total"]["num_examples"], body["total"]["num_new"]) == (9, 3, 1)
    assert [(row["label"], row["num_images"], row["num_new"]) for row in body["classes"]] == [
        ("amber", 3, 0),
        ("birch", 2, 0),
        ("cedar", 3, 0),
        ("wood", 1, 1),
    ]
    assert ([row["label"] for row in second["classes"]], second["next"]) == (["birch"], "birch")


def test_one_image_is_shown_with_its_history(admin):
    for label in ("wood", "tree", ""):
        post_rows(admin, {"image_id": id_of("birch"), "label": label})

    body = admin.get(f"{PATH}/{id_of('birch')}").json()

    assert (body["label"], body["role"]) == ("birch", "catalogue")
    assert [(row["old_label"], row["new_label"], row["changed_by"]) for row in body["changes"]] == [
        (None, "wood", "admin"),
        ("wood", "tree", "admin"),
        ("tree", None, "admin"),
    ]
    for unknown in ("nobody", "%00", "a" * 5000):
        assert problem(admin.get(f"{PATH}/{unknown}"))[:2] == (404, "image-not-found")


def test_images_of_examples_are_served_with_a_key_and_not_cached_publicly(shared_admin):
    name = f"{digest_of('birch', 2)}.png"

    response = shared_admin.get(f"/v1/admin/media/{name}")

    assert response.content == encode(product_image("birch", 2))
    assert response.headers["content-type"] == "image/png"
    assert response.headers["cache-control"].startswith("private")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    again = shared_admin.get(f"/v1/admin/media/{name}", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert shared_admin.head(f"/v1/admin/media/{name}").status_code == 200
    assert shared_admin.get(f"/media/{name}").status_code == 404


@pytest.mark.parametrize("name", ["0" * 64 + ".png", "x", "%00", "a" * 5000])
def test_a_name_of_no_stored_image_is_not_found(shared_admin, name):
    assert problem(shared_admin.get(f"/v1/admin/media/{name}"))[:2] == (404, "media-not-found")


def test_a_stored_image_with_another_extension_is_not_found(shared_admin):
    assert problem(shared_admin.get(f"/v1/admin/media/{digest_of('birch', 2)}.jpg"))[:2] == (404, "media-not-found")
