"""Concurrent changes of labels on PostgreSQL, which runs transactions in parallel."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.labels.applying import apply_labels
from service.labels.listing import LabelListing
from service.labels.sources import LabelSource
from service.storage.tables.catalogue import LabelChange, ProductImage
from tests.databases import new_database
from tests.images import png
from tests.service.conftest import write_shop
from tests.service.labels.test_applying import change, id_of, new

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server_shop(tmp_path_factory: pytest.TempPathFactory, postgresql: str) -> Iterator[Installation]:
    """The shop of three products on a real PostgreSQL."""
    root = tmp_path_factory.mktemp("postgresql")
    with open_installation(Settings(home=root / "home", database_url=new_database(postgresql))) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        yield opened


def run_concurrently(functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_concurrent_labels_and_imports_add_each_image_once(server_shop, tmp_path):
    """Every change has its own number."""
    rows = [new(number, png((number, 1, 1)), "birch") for number in range(40)]
    folder = tmp_path / "more"
    for number in range(40):
        path = folder / "birch" / "example" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((number, 1, 1)))
    reports = []

    def label():
        reports.append(
            apply_labels(server_shop, LabelSource("rows", rows, len(rows)), actor="a", source_name="s").num_added
        )

    def run_import():
        source = read_import_source(folder)
        reports.append(import_catalogue(source, server_shop.database, server_shop.media_store).num_images_added)

    run_concurrently([label, run_import, label, run_import])

    assert (len(reports), sum(reports)) == (4, 40)
    with server_shop.database.reading() as session:
        seqs = list(session.scalars(select(ProductImage.change_seq)))
    assert len(set(seqs)) == len(seqs) == 49


def test_concurrent_changes_of_one_image_form_one_history(server_shop):
    """The old label of each change is the new label of the change before."""

    def relabel(name):
        for number in range(5):
            rows = [change(1, f"{name}{number}", image_id=id_of("amber"))]
            assert apply_labels(server_shop, LabelSource("rows", rows, 1), actor=name, source_name="s").num_changed == 1

    run_concurrently([lambda name=name: relabel(name) for name in "abc"])

    with server_shop.database.reading() as session:
        query = select(LabelChange).where(LabelChange.image_id == id_of("amber")).order_by(LabelChange.id)
        changes = [(row.old_label, row.new_label) for row in session.scalars(query)]
    facts, _ = LabelListing(server_shop.database).show(id_of("amber"))
    assert len(changes) == 15
    assert [old for old, _ in changes] == [None, *(label for _, label in changes[:-1])]
    assert facts.image.label == changes[-1][1]
