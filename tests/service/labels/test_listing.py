"""Lists and counts of labels."""

from typing import Any

import pytest
from sqlalchemy import select

from service.catalogue.changes import lock_changes, number_changes
from service.catalogue.records import labelled_images
from service.labels.applying import apply_labels
from service.labels.errors import ImageNotFound
from service.labels.listing import LabelListing
from service.labels.sources import LabelSource
from service.storage.tables.catalogue import ProductImage
from tests.images import png
from tests.service.labels.test_applying import change, id_of, new

EVERYTHING: dict[str, Any] = {"label": None, "role": None, "state": None, "after": None, "limit": 100}


def apply(shop, row):
    apply_labels(shop, LabelSource("rows", [row], 1), actor="ada", source_name="test")


def test_lists_and_counts_agree(shop):
    apply(shop, new(1, png("red"), "birch", "wood"))
    listing = LabelListing(shop.database)

    counts = listing.counts()
    everything = listing.page(**EVERYTHING)
    examples = listing.page(**{**EVERYTHING, "role": "example", "label": "wood"}).images

    total = counts.total
    assert (total.num_images, total.num_catalogue, total.num_examples, total.num_new) == (10, 6, 4, 10)
    assert {label: count.num_images for label, count in counts.classes.items()} == {
        "amber": 3, "birch": 3, "cedar": 3, "wood": 1,
    }  # fmt: skip
    assert (len(everything.images), everything.next) == (10, None)
    assert [row.image.label for row in examples] == ["wood"]
    assert (examples[0].labelled_by, examples[0].label_source, examples[0].is_new) == ("ada", "test", True)
    by_state = {
        state: sum(row.state == state for row in everything.images) for state in ("train", "validation", "test")
    }
    assert by_state == {"train": total.num_train, "validation": total.num_validation, "test": total.num_test}
    assert sum(by_state.values()) == 10


@pytest.mark.parametrize("limit", [1, 3, 9, 10])
def test_pages_together_are_the_whole_list(shop, limit):
    listing = LabelListing(shop.database)
    found, after = [], None
    while True:
        page = listing.page(**{**EVERYTHING, "after": after, "limit": limit})
        found += [row.image.image_id for row in page.images]
        if (after := page.next) is None:
            break

    with shop.database.reading() as session:
        assert found == [image.image_id for image in labelled_images(session)]
    assert len(found) == 9


def test_counts_of_classes_come_in_pages(shop):
    listing = LabelListing(shop.database)

    first, last = listing.counts(limit=2), listing.counts(limit=2, after="birch")

    assert (list(first.classes), first.next, first.num_classes) == (["amber", "birch"], "birch", 3)
    assert (list(last.classes), last.next, last.num_classes) == (["cedar"], None, 3)
    assert first.total == last.total


def test_shows_a_change_at_once_with_its_history(shop):
    listing = LabelListing(shop.database)
    listing.page(**EVERYTHING)

    apply(shop, change(1, "wood", image_id=id_of("birch")))
    facts, changes = listing.show(id_of("birch"))

    assert facts.image.label == "wood"
    assert [(row.old_label, row.new_label) for row in changes] == [(None, "wood")]


@pytest.mark.parametrize("text", ["a\0b", "\udc80", "\N{PILE OF POO}" * 300])
def test_text_that_no_database_stores_finds_nothing(shop, text):
    listing = LabelListing(shop.database)

    assert listing.page(**{**EVERYTHING, "label": text}).images == []
    assert isinstance(listing.page(**{**EVERYTHING, "after": text}).images, list)
    assert isinstance(listing.counts(after=text).classes, dict)
    with pytest.raises(ImageNotFound):
        listing.show(text)


def test_an_unknown_image_is_not_found(shop):
    with pytest.raises(ImageNotFound, match="no image 'unknown'"):
        LabelListing(shop.database).show("unknown")


def test_an_empty_catalogue_has_empty_lists(installation):
    listing = LabelListing(installation.database)

    assert listing.page(**EVERYTHING).images == []
    assert listing.counts().classes == {}


@pytest.mark.parametrize("asked", ["K\u00e4se", "Ka\u0308se", " K\u00e4se\u00a0"])
@pytest.mark.parametrize("stored", ["K\u00e4se", "Ka\u0308se"])
def test_a_label_is_found_in_each_of_its_forms(shop, stored, asked):
    """Rows of older versions have labels as they were given."""
    with shop.database.transaction() as session:
        lock_changes(session)
        image = session.scalars(select(ProductImage).order_by(ProductImage.id)).first()
        image.label = stored
        number_changes(session, [image])

    (found,) = LabelListing(shop.database).page(**{**EVERYTHING, "label": asked}).images

    assert found.image.label == stored
