"""POST /v1/imports and the errors of its operations over HTTP."""

import json
import secrets

import pytest

from service.access.keys import create_key
from service.catalogue import importing
from service.installation.processes import WORKER, register_process
from service.operations import records, row_errors
from service.operations.claims import owned_operation
from tests.images import png
from tests.service.fixtures.access import bearer
from tests.service.fixtures.imports import failure, perform, performed
from tests.service.fixtures.labels import packed, problem
from tests.service.labels.test_applying import id_of, images_of

PATH = "/v1/imports"
SHOP = packed({"dahlia/front.png": png("red"), "dahlia/example/photo.png": png("blue")})

FOLDERS = {"shoes/red": "red", "shoes/blue": "blue", "hats/green": "green"}


def post(client, content=SHOP, content_type="application/zip", headers=(), **params):
    return client.post(PATH, content=content, headers={"Content-Type": content_type, **dict(headers)}, params=params)


def table_of(num_rows, num_good=1):
    """Return an archive with a table, of which the first rows can be used."""
    rows = [f"p-{number},{'a.png' if number < num_good else 'none.png'}" for number in range(num_rows)]
    return packed({"catalogue.csv": "\n".join(["product_id,image", *rows]) + "\n", "a.png": png("red")})


def kept(shop):
    """Return the files that operations keep."""
    folder = shop.settings.operations_dir
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_an_import_is_queued_shown_and_performed(admin, admin_shop):
    response = post(admin, note="spring")
    kept_meanwhile = kept(admin_shop)

    queued = response.json()
    assert (response.status_code, queued["state"], queued["kind"]) == (202, "queued", "import")
    assert response.headers["location"] == queued["links"]["self"] == f"/v1/operations/{queued['operation_id']}"
    assert admin.get(response.headers["location"]).json() == queued
    assert (queued["request"]["kind"], queued["request"]["note"]) == ("catalogue", "spring")
    shown = performed(admin, admin_shop, response)
    assert (shown["state"], shown["result"]["report"]["num_images_added"]) == ("succeeded", 2)
    assert kept_meanwhile == ["catalogue.zip", queued["operation_id"], "upload"]
    assert kept(admin_shop) == []
    assert list((admin_shop.settings.home / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (f"image_id,label\n{id_of('birch')},wood\n", "text/csv"),
        (json.dumps({"image_id": id_of("birch"), "label": "wood"}), "application/x-ndjson"),
        (packed({"labels.csv": f"image_id,label\n{id_of('birch')},wood\n"}), "application/zip"),
    ],
    ids=["csv", "ndjson", "zip"],
)
def test_labels_are_imported_from_a_table_or_an_archive(admin, admin_shop, content, content_type):
    response = post(admin, content, content_type, kind="labels", labelled_by="Ada", source="survey")

    assert performed(admin, admin_shop, response)["result"]["report"]["num_changed"] == 1
    assert images_of(admin_shop)[id_of("birch")][2:5] == ("wood", "Ada", "survey (key admin)")


def test_a_form_names_a_table_by_its_extension(admin, admin_shop):
    rows = f"image_id,label\n{id_of('birch')},wood\n"

    response = admin.post(PATH, files={"file": ("L.CSV", rows)}, params={"kind": "labels"})

    assert performed(admin, admin_shop, response)["result"]["report"]["num_changed"] == 1


def test_failed_rows_are_listed_in_pages(admin, admin_shop):
    shown = performed(admin, admin_shop, post(admin, table_of(14)))

    pages, url = [], f"{shown['links']['errors']}?limit=6"
    while url:
        pages.append(admin.get(url).json())
        url = pages[-1]["next"]

    assert shown["result"]["row_errors"] == {
        "num_failed": 13,
        "num_left_out": 0,
        "num_images_left_out": 0,
        "num_listed": 13,
    }
    assert [len(page["errors"]) for page in pages] == [6, 6, 1]
    assert [error["number"] for page in pages for error in page["errors"]] == list(range(1, 14))
    assert {page["num_failed"] for page in pages} == {13}
    assert pages[0]["errors"][0] == {
        "number": 1, "kind": "failed", "location": "catalogue.csv:3", "message": (
            "the image 'none.png' does not exist; "
            "it was looked for in the folder of the table; correct the path, or add the file"
        ),
    }  # fmt: skip
    assert len(shown["result"]["report"]["errors"]) == 10


def test_of_too_many_failed_rows_the_first_are_listed_and_all_are_counted(admin, admin_shop, monkeypatch):
    monkeypatch.setattr(row_errors, "MAX_LISTED", 5)
    monkeypatch.setattr(row_errors, "_CHUNK_ROWS", 2)

    shown = performed(admin, admin_shop, post(admin, table_of(9)))
    page = admin.get(shown["links"]["errors"]).json()

    assert (page["num_failed"], page["num_listed"], len(page["errors"]), page["next"]) == (8, 5, 5, None)


def test_the_rows_of_an_import_that_failed_are_listed(admin, admin_shop):
    shown = performed(admin, admin_shop, post(admin, table_of(3, num_good=0)))

    code, detail = failure(shown)
    page = admin.get(shown["links"]["errors"]).json()
    assert code == "invalid-import-source"
    assert "no row of the CSV could be imported: catalogue.csv:2: the image 'none.png' does not exist" in detail
    assert (page["num_failed"], len(page["errors"])) == (3, 3)


def test_files_that_are_left_out_are_listed_after_the_failed_rows(admin, admin_shop):
    files = {"dahlia/1.png": png("red"), "dahlia/readme.txt": b"x", "dahlia/inner.zip": packed({"a/1.png": b"x"})}

    shown = performed(admin, admin_shop, post(admin, packed({**files, "dahlia/2.png": b"x"})))
    errors = admin.get(shown["links"]["errors"]).json()
    left_out = admin.get(shown["links"]["errors"], params={"kind": "left-out"}).json()["errors"]

    assert "product" in shown["result"]["report"]["understood"]
    assert [(error["kind"], error["location"]) for error in errors["errors"]] == [
        ("failed", "dahlia/2.png"),
        ("left-out", "dahlia/inner.zip"),
        ("left-out", "dahlia/readme.txt"),
    ]
    assert (errors["num_failed"], errors["num_left_out"], errors["num_images_left_out"]) == (1, 2, 1)
    assert left_out == errors["errors"][1:]
    assert [item["location"] for item in shown["result"]["report"]["left_out"]] == [
        "dahlia/inner.zip",
        "dahlia/readme.txt",
    ]


def test_the_layout_of_folders_can_be_stated(admin, admin_shop):
    files = {f"{folder}/1.png": png(colour) for folder, colour in FOLDERS.items()}

    reports = [
        performed(admin, admin_shop, post(admin, packed(files), layout=layout, dry_run=True))["result"]["report"]
        for layout in ("products", "paths")
    ]

    assert [report["num_products_added"] for report in reports] == [2, 3]


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 1001}, {"after": -1}, {"after": "x"}, {"kind": "lost"}, {"page": 2}]
)
def test_an_invalid_page_of_errors_is_refused(shared_admin, params):
    assert problem(shared_admin.get("/v1/operations/x/errors", params=params))[:2] == (422, "invalid-request")


def test_the_errors_of_an_unknown_operation_are_not_found(shared_admin):
    assert problem(shared_admin.get("/v1/operations/x/errors"))[:2] == (404, "operation-not-found")


def test_a_queued_import_is_cancelled_with_its_upload(admin, admin_shop):
    before = images_of(admin_shop)
    queued = post(admin).json()

    cancelled = admin.post(queued["links"]["cancel"])

    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert kept(admin_shop) == []
    assert perform(admin_shop, queued["operation_id"]) == "ended before"
    assert images_of(admin_shop) == before


def test_a_running_import_is_cancelled_between_two_chunks(admin, admin_shop, monkeypatch):
    monkeypatch.setattr(importing, "CHUNK_ROWS", 1)
    monkeypatch.setattr("service.worker.run._SECONDS_BETWEEN_POLLS", 0.0)
    num_before = len(images_of(admin_shop))
    files = {f"p-{number}/a.png": png(colour) for number, colour in enumerate(("red", "green", "blue"))}
    queued = post(admin, packed(files)).json()
    register_process(admin_shop.database, WORKER, "w")

    def cancel_and_poll(*arguments):
        admin.post(queued["links"]["cancel"])
        return owned_operation(*arguments)

    # Called for the progress after each chunk.
    monkeypatch.setattr("service.worker.run.owned_operation", cancel_and_poll)

    assert perform(admin_shop, queued["operation_id"]) == "cancelled"

    assert len(images_of(admin_shop)) == num_before + 1
    assert kept(admin_shop) == []


@pytest.mark.parametrize(
    ("params", "code", "detail"),
    [
        ({"kind": "products"}, "invalid-request", "'catalogue' or 'labels'"),
        ({"dryrun": "true"}, "invalid-request", "dryrun"),
        ({"layout": "tree"}, "invalid-request", "'auto', 'products' or 'paths'"),
        ({"labelled_by": "Ada"}, "invalid-operation", "omit them, or import kind=labels"),
        ({"kind": "labels", "labelled_by": "a\0b"}, "invalid-request", "contains a NUL character"),
        ({"note": "x" * 1001}, "invalid-request", "1000"),
    ],
)
def test_invalid_options_queue_nothing(shared_admin, params, code, detail):
    found = problem(post(shared_admin, **params))

    assert found[:2] == (422, code)
    assert detail in found[2]
    assert shared_admin.get("/v1/operations").json()["operations"] == []


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"", "text/csv", 422, "empty-body"),
        (b"no zip", "application/zip", 422, "invalid-archive"),
        (b'{"labels": []}', "application/json", 415, "unsupported-content-type"),
        (png("red"), "image/png", 415, "unsupported-content-type"),
        (b"x" * 200_001, "text/csv", 413, "body-too-large"),
    ],
)
def test_another_body_queues_nothing(shared_admin, shared_shop, content, content_type, status, code):
    assert problem(post(shared_admin, content, content_type, kind="labels"))[:2] == (status, code)
    assert kept(shared_shop) == []


def test_several_imports_are_queued_at_once_up_to_a_limit(admin, admin_shop, monkeypatch):
    monkeypatch.setattr(records, "_MAX_QUEUED", 2)

    queued = [post(admin, note=str(number)).status_code for number in range(2)]
    refused = problem(post(admin, note="2"))
    labels = post(admin, f"image_id,label\n{id_of('birch')},wood\n", "text/csv", kind="labels")

    assert queued == [202, 202]
    assert refused[:2] == (429, "queue-full")
    assert "wait until one has ended" in refused[2]
    assert labels.status_code == 202
    assert len(list(admin_shop.settings.operations_dir.iterdir())) == 3


def test_an_upload_that_leaves_too_little_space_is_refused(admin, admin_shop, monkeypatch):
    monkeypatch.setattr("service.storage.disk.DiskWatch.free_bytes", admin_shop.settings.min_free_bytes + 100)

    for path in (PATH, "/v1/admin/catalogue", "/v1/admin/labels"):
        response = admin.post(path, content=SHOP, headers={"Content-Type": "application/zip"})
        assert problem(response)[:2] == (507, "storage-full")
    assert kept(admin_shop) == []


def test_a_repeated_key_returns_the_same_import(admin, admin_shop):
    headers = {"Idempotency-Key": "nightly"}

    first, again = post(admin, headers=headers), post(admin, headers=headers)
    other = problem(post(admin, packed({"elm/1.png": png("green")}), headers=headers))

    assert again.json()["operation_id"] == first.json()["operation_id"]
    assert other[:2] == (422, "idempotency-key-reused")
    assert len(list(admin_shop.settings.operations_dir.iterdir())) == 1


def test_a_key_that_writes_the_catalogue_follows_its_imports_only(admin, admin_shop):
    _, key = create_key(admin_shop.database, "shop", ["catalogue:write"], actor="test")
    retrain = admin.post("/v1/admin/retrain").json()["operation_id"]

    admin.headers.pop("Authorization")
    queued = post(admin, headers=bearer(key)).json()
    shown = admin.get(queued["links"]["self"], headers=bearer(key))
    errors = admin.get(queued["links"]["errors"], headers=bearer(key))
    cancelled = admin.post(queued["links"]["cancel"], headers=bearer(key))

    assert [response.status_code for response in (shown, errors, cancelled)] == [200, 200, 202]
    for method, path in (("GET", ""), ("GET", "/errors"), ("POST", ":cancel")):
        response = admin.request(method, f"/v1/operations/{retrain}{path}", headers=bearer(key))
        assert problem(response)[:2] == (403, "insufficient-scope")
    assert problem(admin.get("/v1/operations", headers=bearer(key)))[:2] == (403, "insufficient-scope")


def test_an_operation_without_a_worker_says_so(admin, admin_shop):
    queued = post(admin).json()
    listed = admin.get("/v1/operations").json()["operations"]
    register_process(admin_shop.database, WORKER, secrets.token_hex(8))
    shown = admin.get(queued["links"]["self"]).json()

    note = "no worker is running on this installation; start one: akin worker"
    assert queued["notes"] == listed[0]["notes"] == [note]
    assert shown["notes"] == []


def test_an_import_that_is_performed_again_counts_known_rows_as_unchanged(admin, admin_shop):
    """As after the death of a worker: the step begins again with the first row."""
    queued = post(admin).json()
    num_calls = 0

    def die_once(point):
        nonlocal num_calls
        num_calls += point == "within import"
        if point == "within import" and num_calls == 1:
            raise SystemExit

    with pytest.raises(SystemExit):
        perform(admin_shop, queued["operation_id"], on_point=die_once)
    with admin_shop.database.transaction() as session:
        records.get_operation(session, queued["operation_id"]).result = {}
    perform(admin_shop, queued["operation_id"])

    shown = admin.get(queued["links"]["self"]).json()
    report = shown["result"]["report"]
    assert (shown["state"], report["num_unchanged"], report["num_images_added"]) == ("succeeded", 2, 0)
