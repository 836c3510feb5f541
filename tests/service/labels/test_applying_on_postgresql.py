"""The same on a server that runs transactions side by side."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.labels.applying import apply_labels
from service.labels.listing import list_labels, take_overview
from service.labels.sources import LabelSource
from service.storage.tables.catalogue import LabelChange, ProductImage
from tests.databases import new_database
from tests.images import png
from tests.service.conftest import write_shop
from tests.service.labels.test_applying import change, id_of, new


@pytest.fixture(scope="module")
def server_shop(tmp_path_factory: pytest.TempPathFactory, postgresql: str) -> Iterator[Installation]:
    """The shop of three products on a real PostgreSQL."""
    root = tmp_path_factory.mktemp("postgresql")
    with open_installation(Settings(home=root / "home", database_url=new_database(postgresql))) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        yield opened


def at_once(functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_labels_and_imports_at_the_same_time_all_succeed(server_shop, tmp_path):
    """All see the same new images; each is added once, and every change has a number of its own."""
    rows = [new(number, png((number, 1, 1)), "birch") for number in range(96)]
    folder = tmp_path / "more"
    for number in range(96):
        path = folder / "birch" / "example" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((number, 1, 1)))
    reports = []

    def label():
        reports.append(
            apply_labels(server_shop, LabelSource("rows", rows, len(rows)), actor="a", source_name="s").num_added
        )

    def bring():
        source = read_import_source(folder)
        reports.append(import_catalogue(source, server_shop.database, server_shop.media_store).num_images_added)

    at_once([label, bring, label, bring])

    assert (len(reports), sum(reports)) == (4, 96)
    with server_shop.database.reading() as session:
        seqs = list(session.scalars(select(ProductImage.change_seq)))
    assert len(set(seqs)) == len(seqs) == 105


def test_each_change_of_one_image_follows_the_one_before(server_shop):
    """None is lost: what a change says was there before is what the last one gave."""

    def relabel(name):
        for number in range(5):
            rows = [change(1, f"{name}{number}", image_id=id_of("amber"))]
            assert apply_labels(server_shop, LabelSource("rows", rows, 1), actor=name, source_name="s").num_changed == 1

    at_once([lambda name=name: relabel(name) for name in "abc"])

    with server_shop.database.reading() as session:
        query = select(LabelChange).where(LabelChange.image_id == id_of("amber")).order_by(LabelChange.id)
        changes = [(row.old_label, row.new_label) for row in session.scalars(query)]
        (facts,) = list_labels(session, take_overview(session), label=changes[-1][1])[0]
    assert len(changes) == 15
    assert [old for old, _ in changes] == [None, *(label for _, label in changes[:-1])]
    assert facts.image.image_id == id_of("amber")
