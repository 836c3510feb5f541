"""The real catalogue, end to end over HTTP: 81 studio images as products, photos by shoppers as queries."""

import httpx
import pytest

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.build import build_release
from service.web.app import create_app
from service.web.server import listen, running
from tests.service.conftest import wait_for

NUM_QUERIES = 250


@pytest.mark.long
def test_photos_find_their_products_as_well_as_measured_before(grocery, tmp_path):
    """The zero-shot figures of the whole test half are 0.275 and 0.791; a tenth of it may differ a little."""
    settings = Settings(home=tmp_path / "home", log_level="warning")
    with open_installation(settings) as installation:
        report = import_catalogue(read_import_source(grocery), installation.database, installation.media_store)
        assert (report.num_products_added, report.num_images_added, report.errors) == (81, 2721, [])
        build_release(installation)
    lines = (grocery / "dataset" / "test.txt").read_text().splitlines()
    queries = [grocery / "dataset" / line.split(",")[0] for line in lines][:: len(lines) // NUM_QUERIES]

    found = []
    with (
        listen("127.0.0.1", 0) as listener,
        running(create_app(settings), listener) as address,
        httpx.Client(base_url=address) as client,
    ):
        wait_for(lambda: client.get("/readyz").status_code == 200)
        for query in queries:
            response = client.post("/search?k=10", files={"image": query.read_bytes()})
            found.append([hit["product_id"] for hit in response.json()["hits"]])
        shown = client.get(response.json()["hits"][0]["image_url"])

    wanted = [query.parent.name for query in queries]
    at_1 = sum(hits[0] == product for hits, product in zip(found, wanted, strict=True)) / len(queries)
    at_10 = sum(product in hits for hits, product in zip(found, wanted, strict=True)) / len(queries)
    assert at_1 == pytest.approx(0.275, abs=0.06)
    assert at_10 == pytest.approx(0.791, abs=0.06)
    assert all(len(set(hits)) == 10 for hits in found)
    assert shown.headers["content-type"] == "image/jpeg"
