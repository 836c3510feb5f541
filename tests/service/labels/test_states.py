"""States of images in tables: they must be what a training run of the whole catalogue does."""

import random
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from service.catalogue.changes import lock_changes, number_changes
from service.catalogue.editing import remove_products
from service.catalogue.records import labelled_images
from service.labels import states as states_module
from service.labels.errors import LabelsBeingCounted
from service.labels.listing import LabelListing
from service.labels.split_rule import STATES
from service.labels.states import update_states
from service.storage.database import next_change_seqs, now
from service.storage.tables.catalogue import CATALOGUE, EXAMPLE, MediaObject, Product, ProductImage
from service.storage.tables.training import TrainingImage, TrainingOverview
from tests.service.fixtures.statements import counted
from training.data.label_states import held_out_states
from training.data.snapshot import SnapshotImage, snapshot_of
from training.data.splits import SplitConfig

NUM_EDITS = 6


def expected_of(session):
    """Return the label, role and state of each image as a training run finds them, from all images at once."""
    images = labelled_images(session)
    snapshot = snapshot_of(
        "catalogue",
        [
            SnapshotImage(
                image.image_id, Path(), image.label, "example" if image.role == EXAMPLE else "catalogue", "",
                image.media_name.sha256,
            )
            for image in images
        ],
    )  # fmt: skip
    states = held_out_states(snapshot, SplitConfig()) if images else []
    return {
        image.location: (image.label, image.role, state) for image, state in zip(snapshot.images, states, strict=True)
    }


def check(database):
    """Compare lists, counts and the whole computation."""
    listing = LabelListing(database, is_patient=True)
    page = listing.page(label=None, role=None, state=None, after=None, limit=1000)
    counts = listing.counts()
    with database.reading() as session:
        expected = expected_of(session)
    assert {row.image.image_id: (row.image.label, row.image.role, row.state) for row in page.images} == expected
    by_label = {
        label: [sum(value == (label, role, state) for value in expected.values()) for role in ("catalogue", "example")
                for state in STATES]
        for label in {value[0] for value in expected.values()}
    }  # fmt: skip
    assert list(counts.classes) == sorted(by_label)
    for label, numbers in by_label.items():
        found = counts.classes[label]
        assert (found.num_catalogue, found.num_examples) == (sum(numbers[:3]), sum(numbers[3:]))
        assert [found.num_train, found.num_validation, found.num_test] == [
            numbers[n] + numbers[n + 3] for n in range(3)
        ]
    assert (counts.total.num_images, counts.num_classes) == (len(expected), len(by_label))


class Shop:
    """A random catalogue that is edited as imports, labels and removals edit it."""

    def __init__(self, database, seed):
        self.database = database
        self.random = random.Random(seed)
        self.num_products = self.random.choice([2, 3, 6, 30])
        self.num_digests = self.random.choice([3, 10, 200])
        self.example_share = self.random.choice([0, 0, 0.1, 0.5, 1])
        self.labels = [f"class {n}" for n in range(self.random.choice([1, 4, 20]))]
        self.num_images = 0

    def label(self):
        return self.random.choice([None, None, " ", " padded ", *self.labels])

    def edit(self):
        kind = self.random.choice([self.add, self.add, self.relabel, self.change_role, self.remove, self.rename])
        with self.database.transaction() as session:
            lock_changes(session)
            kind(session)

    def add(self, session):
        moment = now()
        changed: list[Product | ProductImage] = []
        for _ in range(self.random.randint(1, 15)):
            product_id = f"product {self.random.randrange(self.num_products)}"
            product = session.get(Product, product_id)
            if product is None:
                product = Product(id=product_id, title="t", attributes={}, created_at=moment, change_seq=0)
                session.add(product)
                changed.append(product)
            elif product.deleted_at is not None:
                product.deleted_at = None
                changed.append(product)
            digest = f"{self.random.randrange(self.num_digests):064x}"
            if session.get(MediaObject, digest) is None:
                session.add(
                    MediaObject(sha256=digest, extension="png", num_bytes=1, width=1, height=1, created_at=moment)
                )
            session.flush()
            role = EXAMPLE if self.random.random() < self.example_share else CATALOGUE
            image = ProductImage(
                id=f"{self.random.getrandbits(80):020x}", product_id=product_id, sha256=digest, role=role,
                label=self.label(), created_at=moment, change_seq=0,
            )  # fmt: skip
            session.add(image)
            changed.append(image)
        number_changes(session, changed)

    def some(self, session):
        images = session.scalars(select(ProductImage).order_by(ProductImage.id)).all()
        return self.random.sample(images, min(len(images), self.random.randint(1, 5)))

    def relabel(self, session):
        images = self.some(session)
        for image in images:
            image.label = self.label()
        number_changes(session, images)

    def change_role(self, session):
        images = self.some(session)
        for image in images:
            image.role = CATALOGUE if image.role == EXAMPLE else EXAMPLE
        number_changes(session, images)

    def remove(self, session):
        products = session.scalars(select(Product).where(Product.deleted_at.is_(None)).order_by(Product.id)).all()
        if products:
            remove_products(session, [self.random.choice(products).id])

    def rename(self, session):
        """Change a product alone, as no command does yet: its images keep their change numbers."""
        products = session.scalars(select(Product).order_by(Product.id)).all()
        if products:
            product = self.random.choice(products)
            product.label = self.label()
            number_changes(session, [product])


@pytest.fixture
def database(installation):
    return installation.database


@pytest.mark.parametrize("seed", range(6))
def test_states_are_those_of_a_training_run_after_any_edits(database, seed, monkeypatch):
    generator = random.Random(seed)
    monkeypatch.setattr(states_module, "CHANGES_PER_STEP", generator.choice([3, 2_000]))
    shop = Shop(database, seed)
    check(database)

    for _ in range(NUM_EDITS):
        for _ in range(generator.randint(1, 3)):
            shop.edit()
        check(database)


@pytest.mark.parametrize("seed", range(2))
def test_an_update_in_parts_gives_the_same_states(database, seed, monkeypatch):
    """Another process changes the catalogue between the parts."""
    monkeypatch.setattr(states_module, "CHANGES_PER_STEP", 5)
    shop = Shop(database, 100 + seed)

    for _ in range(10):
        shop.edit()
        update_states(database, max_images=1)

    check(database)


def test_states_of_another_rule_are_computed_again(shop):
    check(shop.database)
    with shop.database.transaction() as session:
        session.get(TrainingOverview, 1).rule = "an older rule"
        for image in session.scalars(select(TrainingImage)):
            image.own_state = image.state = 2

    check(shop.database)


def test_a_list_is_refused_while_many_changes_are_left_and_goes_on_later(shop, monkeypatch):
    monkeypatch.setattr("service.labels.listing._IMAGES_PER_REQUEST", 1)
    monkeypatch.setattr(states_module, "CHANGES_PER_STEP", 6)
    with pytest.raises(LabelsBeingCounted, match="up to 6 changes of the catalogue are left; ask again"):
        LabelListing(shop.database).counts()
    for _ in range(4):
        update_states(shop.database, max_images=1)
    counts = LabelListing(shop.database).counts()

    assert counts.total.num_images == 9


def test_nothing_is_written_and_little_is_read_when_nothing_has_changed(shop):
    listing = LabelListing(shop.database)
    listing.counts()

    with counted(shop.database) as statements:
        listing.page(label="amber", role="example", state="train", after=None, limit=10)
        listing.counts(limit=10)

    assert all(statement.lstrip("( ").upper().startswith("SELECT") for statement in statements), statements
    assert len(statements) <= 16


def test_the_number_of_statements_depends_neither_on_images_nor_on_classes(database):
    """Of 800 new images of 800 classes, and of one that moves to another class."""
    with database.transaction() as session:
        for table, rows in rows_of(range(800), now(), next_change_seqs(session, 1_600)).items():
            session.execute(insert(table), rows)

    with counted(database) as of_all:
        update_states(database)
    with database.transaction() as session:
        image = session.scalars(select(ProductImage).order_by(ProductImage.id)).first()
        image.label = "another class"
        number_changes(session, [image])
    with counted(database) as of_one:
        update_states(database)

    assert len(of_all) <= 40, of_all
    assert len(of_one) <= 25, of_one
    check(database)


def rows_of(numbers, moment, seqs):
    """Return the rows of products with one catalogue image each."""
    seq = iter(seqs)
    return {
        Product: [
            {"id": f"p{n}", "title": "t", "attributes": {}, "created_at": moment, "change_seq": next(seq)}
            for n in numbers
        ],
        MediaObject: [
            {"sha256": f"{n:064x}", "extension": "png", "num_bytes": 1, "width": 1, "height": 1, "created_at": moment}
            for n in numbers
        ],
        ProductImage: [
            {"id": f"{n:020x}", "product_id": f"p{n}", "sha256": f"{n:064x}", "role": CATALOGUE,
             "created_at": moment, "change_seq": next(seq)}
            for n in numbers
        ],
    }  # fmt: skip
