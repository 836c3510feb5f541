"""Which images may be shown to anybody."""

import hashlib
from datetime import timedelta

import pytest

from service.catalogue import shown_images
from service.catalogue.editing import remove_products
from service.catalogue.importing import import_catalogue
from service.catalogue.shown_images import is_catalogue_image
from service.catalogue.sources import ImportSource, SourceRow
from service.storage.media import MediaName
from tests.images import png


@pytest.fixture
def add(installation, tmp_path):
    """Import an image of one colour, and return its name."""

    def add(colour, product_id, role):
        path = tmp_path / f"{colour}.png"
        path.write_bytes(png(colour))
        source = ImportSource("one", [SourceRow("1", product_id, path, role=role)], 1)
        import_catalogue(source, installation.database, installation.media_store)
        return MediaName(hashlib.sha256(png(colour)).hexdigest(), "png")

    return add


def test_images_of_the_catalogue_are_shown_and_examples_are_not(installation, add):
    shown, example = add("red", "p1", "catalogue"), add("green", "p1", "example")

    assert is_catalogue_image(installation.database, shown)
    assert not is_catalogue_image(installation.database, example)
    assert not is_catalogue_image(installation.database, MediaName(shown.sha256, "jpg"))
    assert not is_catalogue_image(installation.database, MediaName("0" * 64, "png"))


def test_an_example_of_one_product_that_another_shows_is_shown(installation, add):
    add("red", "p1", "example")
    name = add("red", "p2", "catalogue")

    assert is_catalogue_image(installation.database, name)


def test_images_of_removed_products_are_shown_for_a_while(installation, add, monkeypatch):
    name, example = add("red", "p1", "catalogue"), add("green", "p1", "example")
    with installation.database.transaction() as session:
        remove_products(session, ["p1"])

    assert is_catalogue_image(installation.database, name)
    assert not is_catalogue_image(installation.database, example)
    monkeypatch.setattr(shown_images, "REMOVED_FOR", timedelta(0))
    assert not is_catalogue_image(installation.database, name)
