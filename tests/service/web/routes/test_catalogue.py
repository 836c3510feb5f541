"""The catalogue over HTTP: import, count, remove."""

import zipfile

import pytest
from fastapi.testclient import TestClient

from service.catalogue.importing import import_catalogue
from service.catalogue.queries import count_catalogue
from service.catalogue.sources import ImportSource, SourceRow
from service.installation.installation import Installation
from service.web.app import create_app
from tests.conftest import REAL_DATA
from tests.images import png
from tests.service.fixtures.imports import failure, performed
from tests.service.fixtures.labels import KEY, copied_shop, packed, problem
from tests.service.labels.test_applying import digest_of, images_of

PATH = "/v1/admin/catalogue"

SHOP = {
    "new/dahlia/front.png": png("red"),
    "new/dahlia/example/photo.png": png("blue"),
    "new/elm/front.png": png("green"),
    "new/readme.txt": b"x",
}


def post(client, content, content_type="application/zip", **params):
    return client.post(PATH, content=content, headers={"Content-Type": content_type}, params=params)


def imported(client, installation, content, **params):
    """Import an archive, and return the report in the operation's result."""
    shown = performed(client, installation, post(client, content, **params))
    assert shown["state"] == "succeeded", shown
    return shown["result"]["report"]


def test_a_zip_is_imported_and_repeated(admin, admin_shop):
    response = post(admin, packed(SHOP), note="spring")
    shown = performed(admin, admin_shop, response)
    again = imported(admin, admin_shop, packed(SHOP))

    assert response.headers["location"] == f"/v1/operations/{response.json()['operation_id']}"
    assert (shown["state"], shown["kind"], shown["request"]["note"]) == ("succeeded", "import", "spring")
    assert [step["name"] for step in shown["steps"]] == ["unpack", "import"]
    report = shown["result"]["report"]
    assert (report["num_products_added"], report["num_images_added"], report["num_ignored"]) == (2, 3, 1)
    assert (again["num_unchanged"], again["num_images_added"]) == (3, 0)
    assert admin.get(PATH).json() == {
        "num_products": 5,
        "num_images": {"catalogue": 8, "example": 4},
        "watermark": 17,
    }


@pytest.mark.parametrize("field", ["archive", "file"])
def test_a_form_with_a_zip_is_imported(admin, admin_shop, field):
    response = admin.post(PATH, files={field: ("a.zip", packed(SHOP))})

    assert performed(admin, admin_shop, response)["result"]["report"]["num_images_added"] == 3


def test_a_table_in_a_zip_is_imported_with_its_bad_rows_reported(admin, admin_shop):
    table = "product_id,title,image,attributes\nd,Dahlia,a.png,\ne,Elm,none.png,\nf,,../x.png,\n"

    shown = performed(admin, admin_shop, post(admin, packed({"catalogue.csv": table, "a.png": png("red")})))

    assert shown["state"] == "succeeded"
    assert (shown["result"]["report"]["num_images_added"], shown["result"]["report"]["num_failed"]) == (1, 2)
    listed = admin.get(shown["links"]["errors"]).json()
    assert {error["location"]: error["message"] for error in listed["errors"]} == {
        "catalogue.csv:3": (
            "the image 'none.png' does not exist; "
            "it was looked for in the folder of the table; correct the path, or add the file"
        ),
        "catalogue.csv:4": "the image '../x.png' is not in the archive; name an image that is",
    }


def test_the_grocery_dataset_is_imported_with_its_top_folder(admin, admin_shop):
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Iconic Image Path (str)"
    files = {
        "GroceryStoreDataset/dataset/classes.csv": f"{header}\nOat-Milk,0,Milk,/iconic/Oat-Milk.png\n",
        "GroceryStoreDataset/dataset/train.txt": "train/1.png, 0, 4\n",
        "GroceryStoreDataset/dataset/iconic/Oat-Milk.png": png("red"),
        "GroceryStoreDataset/dataset/train/1.png": png("blue"),
        "GroceryStoreDataset/dataset/test/2.png": png("green"),
    }

    report = imported(admin, admin_shop, packed(files))

    assert (report["layout"], report["num_products_added"], report["num_images_added"]) == ("GroceryStoreDataset", 1, 2)


@pytest.mark.long
def test_the_characters_of_omniglot_are_read(shop_settings, tmp_path, new_address):
    path = REAL_DATA / "omniglot-small1.zip"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the project (../shared/data)")
    with copied_shop(shop_settings, tmp_path / "home", new_address) as shop:
        settings = shop.settings.model_copy(update={"max_upload_bytes": 10_000_000})
        large = Installation(settings, shop.database, shop.media_store)
        with TestClient(create_app(settings), headers={"Authorization": f"Bearer {KEY}"}) as client:
            report = imported(client, large, path.read_bytes(), dry_run=True)

    assert (report["num_images_added"], report["num_failed"]) == (2720, 0)


def test_a_dry_run_writes_nothing(admin, admin_shop):
    before = images_of(admin_shop)

    report = imported(admin, admin_shop, packed(SHOP), dry_run=True)

    assert (report["dry_run"], report["num_images_added"]) == (True, 3)
    assert images_of(admin_shop) == before


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code", "detail"),
    [
        (b"", "application/zip", 422, "empty-body", "0 bytes"),
        (b"no zip", "application/zip", 422, "invalid-archive", "only zip archives are supported"),
        (packed({"../a/1.png": png("red")}), "application/zip", 422, "invalid-archive", "leads out"),
        (b"a,b\n", "text/plain", 415, "unsupported-content-type", "send application/zip"),
        (b"x", "", 415, "unsupported-content-type", "no Content-Type"),
        (b"x" * 200_001, "application/zip", 413, "body-too-large", "200,000"),
        (b"x", "multipart/form-data", 422, "invalid-form", "no boundary"),
    ],
)
def test_an_invalid_archive_queues_nothing(shared_admin, content, content_type, status, code, detail):
    found = problem(post(shared_admin, content, content_type))

    assert found[:2] == (status, code)
    assert detail in found[2]
    assert shared_admin.get("/v1/operations").json()["operations"] == []


def test_an_archive_without_a_usable_row_fails_with_its_first_reasons(admin, admin_shop):
    cases = [
        (packed({}), "application/zip", "the archive contains no folders with images"),
        (packed({"a/1.png": b"x"}), "application/zip", "no row of the folder per"),
        (packed({"a/1.png": b"x"}), "application/zip", "1.png: the bytes are"),
        (packed({"catalogue.csv": "a,b\n"}), "application/zip", "no column"),
        (
            packed({"catalogue.csv": "product_id,image\nx,/etc/hostname\n"}), "application/zip",
            "the image '/etc/hostname' does not exist; it was looked for as 'etc/hostname'",
        ),
        (b"a,b\n", "text/csv", "no column"),
        (b"product_id,image\nx,catalogue.csv\n", "text/csv", "catalogue.csv:2: "),
        (b'{"product_id": "x", "image": "a.png"}\n', "application/x-ndjson", "catalogue.ndjson:1: "),
    ]  # fmt: skip
    before = images_of(admin_shop)

    for content, content_type, detail in cases:
        code, found = failure(performed(admin, admin_shop, post(admin, content, content_type)))

        assert (code, detail in found) == ("invalid-import-source", True), (detail, found)
        assert str(admin_shop.settings.home) not in found
    assert images_of(admin_shop) == before


def test_an_archive_that_unpacks_to_more_than_allowed_is_refused(shared_admin):
    content = packed({"a/big.bmp": b"\0" * 800_001}, zipfile.ZIP_DEFLATED)

    found = problem(post(shared_admin, content))

    assert len(content) < 200_000
    assert found[:2] == (422, "invalid-archive")
    assert "more than 800,000 bytes" in found[2]


def test_a_misspelt_dry_run_is_refused(shared_admin, shared_shop):
    before = images_of(shared_shop)

    assert problem(post(shared_admin, packed(SHOP), dryrun=True))[:2] == (422, "invalid-request")
    assert images_of(shared_shop) == before


def test_a_product_is_removed_with_its_images(admin, admin_shop):
    response = admin.delete(f"{PATH}/birch")

    assert response.json() == {"product_id": "birch", "num_images": 3}
    with admin_shop.database.reading() as session:
        assert count_catalogue(session).num_products == 2
    assert problem(admin.delete(f"{PATH}/birch"))[:2] == (404, "product-not-found")


def test_a_product_whose_id_has_a_slash_is_removed(admin, admin_shop, tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    source = ImportSource("one", [SourceRow("1", "a/b c", tmp_path / "a.png")], 1)
    import_catalogue(source, admin_shop.database, admin_shop.media_store)

    assert admin.delete(f"{PATH}/a%2Fb%20c").json()["product_id"] == "a/b c"


@pytest.mark.parametrize("product_id", ["zebra", "%00", "x" * 3000])
def test_an_unknown_product_cannot_be_removed(shared_admin, product_id):
    assert problem(shared_admin.delete(f"{PATH}/{product_id}"))[:2] == (404, "product-not-found")


def test_every_request_needs_the_key(shared_admin, shared_shop):
    before = images_of(shared_shop)
    for method, path in (("POST", PATH), ("GET", PATH), ("DELETE", f"{PATH}/birch")):
        for headers, code in (({"Authorization": ""}, "missing-key"), ({"Authorization": "Bearer x"}, "invalid-key")):
            assert problem(shared_admin.request(method, path, headers=headers))[:2] == (401, code)

    assert images_of(shared_shop) == before
    assert shared_admin.get(f"/media/{digest_of('birch', 2)}.png").status_code == 404  # an example
