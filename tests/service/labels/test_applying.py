"""Applying labels: what changes, what does not, and what is recorded."""

import hashlib
import re
import threading
from dataclasses import replace

import pytest
from sqlalchemy import select

from service.catalogue.editing import remove_products
from service.catalogue.images import image_id_of
from service.catalogue.importing import import_catalogue
from service.catalogue.queries import count_catalogue
from service.catalogue.records import labelled_images
from service.catalogue.sources import ImportSource, RowError, SourceRow
from service.errors import StorageFull
from service.labels import applying
from service.labels.applying import apply_labels
from service.labels.sources import LabelSource, NewExample, Relabel, read_label_source
from service.storage.tables.catalogue import LabelChange, MediaObject, Product, ProductImage
from tests.images import encode, png
from tests.service.conftest import product_image


@pytest.fixture
def run(shop):
    """Apply rows to the shop of three products."""

    def run(rows, **options):
        source = rows if isinstance(rows, LabelSource) else LabelSource("rows", list(rows), len(rows))
        return apply_labels(shop, source, **{"actor": "ada", "source_name": "test", **options})

    return run


def new(number, image, product_id=None, label=None, **options):
    return NewExample(f"r:{number}", image, product_id, label, **options)


def change(number, label, image_id=None, sha256=None, product_id=None, **options):
    return Relabel(f"r:{number}", image_id, sha256, product_id, label, **options)


def digest_of(product_id, number=0):
    return hashlib.sha256(encode(product_image(product_id, number))).hexdigest()


def id_of(product_id, number=0):
    """Return the id of image `number` of a product; 2 is its example."""
    return image_id_of(product_id, digest_of(product_id, number))


def images_of(installation):
    """Return (product, role, label, who, why, change number, is deleted) of each image by its id."""
    with installation.database.reading() as session:
        return {
            row.id: (
                row.product_id,
                row.role,
                row.label,
                row.labelled_by,
                row.label_source,
                row.change_seq,
                row.deleted_at is not None,
            )
            for row in session.scalars(select(ProductImage))
        }


def history_of(installation):
    with installation.database.reading() as session:
        rows = session.scalars(select(LabelChange).order_by(LabelChange.id))
        return [(row.image_id, row.old_label, row.new_label, row.changed_by, row.source) for row in rows]


def files_of(installation):
    return sorted(path.name for path in (installation.settings.home / "media").rglob("*") if path.is_file())


def messages_of(report):
    return {error.location: error.message for error in report.errors}


def test_a_changed_label_is_recorded_with_its_author_and_source(shop, run):
    before = images_of(shop)

    report = run([change(1, "wood", image_id=id_of("birch")), change(2, "gem", sha256=digest_of("amber"))])

    assert (report.num_changed, report.num_added, report.num_failed) == (2, 0, 0)
    after = images_of(shop)
    assert after[id_of("birch")] == ("birch", "catalogue", "wood", "ada", "test", 13, False)
    assert after[id_of("amber")] == ("amber", "catalogue", "gem", "ada", "test", 14, False)
    assert {key: row for key, row in after.items() if key not in (id_of("birch"), id_of("amber"))} == {
        key: row for key, row in before.items() if key not in (id_of("birch"), id_of("amber"))
    }
    assert history_of(shop) == [
        (id_of("birch"), None, "wood", "ada", "test"),
        (id_of("amber"), None, "gem", "ada", "test"),
    ]
    with shop.database.reading() as session:
        assert {row.label for row in labelled_images(session)} == {"amber", "birch", "cedar", "wood", "gem"}


def test_a_new_image_becomes_an_example_of_its_product(shop, run):
    report = run([new(1, png("red"), "birch"), new(2, png("blue"), "amber", "gem", labelled_by="Bo")])

    assert report.num_added == 2
    rows = images_of(shop)
    red = image_id_of("birch", hashlib.sha256(png("red")).hexdigest())
    blue = image_id_of("amber", hashlib.sha256(png("blue")).hexdigest())
    assert rows[red] == ("birch", "example", None, "ada", "test", 13, False)
    assert rows[blue] == ("amber", "example", "gem", "Bo", "test", 14, False)
    assert history_of(shop) == [(red, None, None, "ada", "test"), (blue, None, "gem", "Bo", "test")]
    with shop.database.reading() as session:
        assert count_catalogue(session).num_images == {"catalogue": 6, "example": 5}
        media = session.get(MediaObject, hashlib.sha256(png("red")).hexdigest())
    assert media is not None
    assert (media.extension, media.width) == ("png", 32)
    assert len(files_of(shop)) == 11


def test_applying_the_same_labels_twice_changes_nothing(shop, run):
    rows = [
        new(1, png("red"), "birch"),
        new(2, png("blue"), None, "amber"),
        new(3, png("green"), "cedar", "wood"),
        change(4, "gem", image_id=id_of("amber")),
    ]
    run(rows)
    before = images_of(shop), history_of(shop), files_of(shop)

    report = run(rows)

    assert (report.num_unchanged, report.num_usable) == (4, 4)
    assert (images_of(shop), history_of(shop), files_of(shop)) == before


def test_a_label_is_reset_and_its_history_is_kept(shop, run):
    for label in ("wood", "tree", None):
        run([change(1, label, image_id=id_of("birch"))])

    assert images_of(shop)[id_of("birch")][2] is None
    assert [(old, new) for _, old, new, _, _ in history_of(shop)] == [(None, "wood"), ("wood", "tree"), ("tree", None)]


def test_giving_the_label_of_the_product_is_no_change(shop, run):
    report = run([change(1, "birch", image_id=id_of("birch")), new(2, png("red"), "birch", "birch")])

    assert (report.num_unchanged, report.num_added) == (1, 1)
    assert {row[2] for row in images_of(shop).values()} == {None}


def test_each_change_has_its_own_number(shop, run):
    run([new(n, png((n, 0, 0)), "birch") for n in range(40)] + [change(99, "x", image_id=id_of("amber"))])

    with shop.database.reading() as session:
        seqs = sorted([*session.scalars(select(Product.change_seq)), *session.scalars(select(ProductImage.change_seq))])
    assert len(set(seqs)) == len(seqs) == 52
    assert seqs[-41:] == list(range(13, 54))


def test_a_product_is_found_by_its_label(shop, run):
    """By the id of a product, then the label of products, then that of images; the lowest id if there are several."""
    with shop.database.transaction() as session:
        for product_id in ("cedar", "birch"):
            product = session.get(Product, product_id)
            assert product is not None
            product.label = "wood"
    run([change(1, "gem", image_id=id_of("cedar")), change(2, "gem", image_id=id_of("amber"))])

    report = run([new(n, png((n, 9, 9)), None, label) for n, label in enumerate(["amber", "wood", "gem"])])

    assert report.num_added == 3
    rows = images_of(shop)
    added = [
        rows[image_id_of(product_id, hashlib.sha256(png((n, 9, 9))).hexdigest())][2]
        for n, product_id in enumerate(["amber", "birch", "amber"])
    ]
    assert added == [None, None, "gem"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (lambda: new(1, png("red"), "zebra"), "no product 'zebra'; import the product first"),
        (
            lambda: new(1, png("red"), None, "zebra"),
            "no product with the id or label 'zebra'; import the product first",
        ),
        (lambda: new(1, png("red"), "gone"), "no product 'gone'"),
        (lambda: new(1, png("red"), None, "gone"), "no product with the id or label 'gone'"),
        (lambda: new(1, b"no image", "birch"), "supported format"),
        (lambda: new(1, b"", "birch"), "empty"),
        (lambda: new(1, encode(product_image("amber"))[:-900], "birch"), "damaged|truncated|cut"),
        (lambda: change(1, "x", image_id="unknown"), "no image with image_id 'unknown'"),
        (lambda: change(1, "x", sha256="0" * 64), "no image with sha256"),
        (lambda: change(1, "x", sha256=digest_of("amber"), product_id="birch"), "of 'birch'; look it up"),
        (
            lambda: change(1, "x", image_id=id_of("amber"), product_id="birch"),
            "belongs to 'amber', but the row has the product_id 'birch'",
        ),
        (lambda: change(1, "x", image_id=image_id_of("gone", "")), "no image"),
    ],
)
def test_a_row_that_cannot_be_used_changes_and_stores_nothing(shop, run, row, message):
    import_one(shop, "gone", png("white"))
    with shop.database.transaction() as session:
        remove_products(session, ["gone"])
    before = images_of(shop), files_of(shop)

    report = run([row()])

    assert (report.num_failed, report.num_usable) == (1, 0)
    assert re.search(message, report.errors[0].message), report.errors[0].message
    assert (images_of(shop), files_of(shop)) == before


def import_one(installation, product_id, image_bytes, **options):
    path = installation.settings.home / f"{product_id}.png"
    path.write_bytes(image_bytes)
    source = ImportSource("one", [SourceRow("1", product_id, path, **options)], 1)
    import_catalogue(source, installation.database, installation.media_store)


def test_an_image_of_several_products_needs_the_product_id(shop, run):
    for product_id in ("x1", "x2"):
        import_one(shop, product_id, png("white"))
    digest = hashlib.sha256(png("white")).hexdigest()

    report = run([change(1, "a", sha256=digest), change(2, "b", sha256=digest, product_id="x2")])

    assert "several products have the image with" in messages_of(report)["r:1"]
    assert "'x1', 'x2'); give the product_id too" in messages_of(report)["r:1"]
    assert images_of(shop)[image_id_of("x2", digest)][2] == "b"
    assert images_of(shop)[image_id_of("x1", digest)][2] is None


def test_a_catalogue_image_does_not_become_an_example(shop, run):
    before = images_of(shop)

    report = run([new(1, encode(product_image("amber")), "amber"), new(2, encode(product_image("amber")), "birch")])

    assert f"(image_id {id_of('amber')}) and cannot become an example" in messages_of(report)["r:1"]
    # The same bytes may become an example of another product, as in an import.
    assert report.num_added == 1
    assert images_of(shop)[id_of("amber")] == before[id_of("amber")]


def test_a_removed_image_is_not_labelled_but_can_be_added_again(shop, run):
    with shop.database.transaction() as session:
        image = session.get(ProductImage, id_of("birch", 1))
        assert image is not None
        image.deleted_at = image.created_at

    report = run([change(1, "x", image_id=id_of("birch", 1)), new(2, encode(product_image("birch", 1)), "birch")])

    assert "was removed; import it again" in messages_of(report)["r:1"]
    assert report.num_added == 1
    assert images_of(shop)[id_of("birch", 1)][1:3] == ("example", None)


def test_images_of_a_removed_product_are_not_labelled(shop, run):
    with shop.database.transaction() as session:
        remove_products(session, ["birch"])

    report = run([change(1, "x", image_id=id_of("birch"))])

    assert "was removed" in messages_of(report)["r:1"]


def test_an_example_keeps_its_label_unless_another_is_given(shop, run):
    run([new(1, png("red"), "birch", "wood")])

    without_label = run([new(1, png("red"), "birch")])
    relabelled = run([new(1, png("red"), "birch", "tree")])

    assert (without_label.num_unchanged, relabelled.num_changed) == (1, 1)
    assert [row[2] for row in images_of(shop).values() if row[2]] == ["tree"]


def test_rows_that_contradict_each_other_are_reported(shop, run):
    rows = [
        change(1, "wood", image_id=id_of("birch")),
        change(2, "tree", sha256=digest_of("birch")),
        change(3, None, image_id=id_of("birch")),
        new(4, png("red"), "amber"),
        new(5, png("red"), "amber", "gem"),
        new(6, png("red"), None, "amber"),
    ]

    report = run(rows)

    assert "has label 'wood' at r:1 and 'tree' here; remove one" in messages_of(report)["r:2"]
    assert "label 'wood' at r:1 and its product's here" in messages_of(report)["r:3"]
    assert list(messages_of(report)) == ["r:2", "r:3", "r:6"]
    assert (report.num_changed, report.num_added) == (2, 1)


def test_the_same_image_twice_is_added_once(shop, run):
    dry = run([new(n, png("red"), "birch") for n in range(70)], dry_run=True)
    report = run([new(n, png("red"), "birch") for n in range(70)])

    assert (dry.num_added, dry.num_unchanged) == (report.num_added, report.num_unchanged) == (1, 69)


def test_a_dry_run_checks_everything_and_writes_nothing(shop, run):
    before = images_of(shop), files_of(shop)
    rows = [
        new(1, png("red"), "birch"),
        change(2, "gem", image_id=id_of("amber")),
        new(3, b"no image", "birch"),
        change(4, "x", image_id="unknown"),
    ]

    dry = run(rows, dry_run=True)

    assert (images_of(shop), files_of(shop)) == before
    assert history_of(shop) == []
    real = run(rows)
    assert (dry.num_added, dry.num_changed, dry.num_failed) == (real.num_added, real.num_changed, real.num_failed)
    assert dry.errors == real.errors


def test_an_interrupted_run_can_be_resumed(shop, run, monkeypatch):
    monkeypatch.setattr(applying, "CHUNK_ROWS", 2)
    rows = [new(n, png((n, 0, 0)), "birch") for n in range(6)]

    def stop(done, total):
        assert total == 6
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(rows, on_progress=stop)
    report = run(rows)

    assert (report.num_unchanged, report.num_added) == (4, 2)
    assert len(history_of(shop)) == 6


def test_a_full_disk_leaves_no_row_without_its_image(shop, run, monkeypatch):
    before = images_of(shop)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedding.whole_files.os.fsync", full)

    with pytest.raises(StorageFull, match="the disk of the images is full"):
        run([new(1, png("red"), "birch")])

    assert images_of(shop) == before


def test_all_errors_are_counted_and_the_first_are_kept(shop, run, monkeypatch):
    monkeypatch.setattr("service.catalogue.reports.MAX_KEPT_ERRORS", 3)
    monkeypatch.setattr(applying, "CHUNK_ROWS", 20)
    handed_over: list[list[RowError]] = []

    report = run([change(n, "x", image_id=f"no{n}") for n in range(50)], on_error=handed_over.append)

    assert (len(report.errors), report.num_failed) == (3, 50)
    assert [len(errors) for errors in handed_over] == [20, 20, 10]
    assert report.reasons().endswith("and 47 more")


def test_an_oversized_image_is_refused(shop, run):
    small = replace(shop, settings=shop.settings.model_copy(update={"max_image_bytes": 90}))

    report = apply_labels(
        small, LabelSource("rows", [new(1, png("red", (64, 64)) + b"x" * 90, "birch")], 1), actor="a", source_name="s"
    )

    assert "at most 90 are allowed" in report.errors[0].message


def test_a_folder_per_class_can_be_applied_repeatedly(shop, run, tmp_path):
    folder = tmp_path / "photos"
    for number, product_id in enumerate(("amber", "birch", "zebra")):
        path = folder / product_id / "photo.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png((number, 5, 5)))

    report = run(read_label_source(folder))
    again = run(read_label_source(folder))

    assert (report.num_added, report.num_failed) == (2, 1)
    assert messages_of(report)["zebra/photo.png"].startswith("the catalogue has no product")
    assert (again.num_unchanged, again.num_failed) == (2, 1)


def test_messages_do_not_contain_the_path_of_the_unpacked_archive(shop, run, tmp_path):
    (tmp_path / "labels.csv").write_text("product_id,image\nbirch,missing.png\n")

    report = run(read_label_source(tmp_path))

    (message,) = messages_of(report).values()
    assert message.startswith("the image 'missing.png' does not exist")
    assert str(tmp_path) not in message


def test_an_import_that_changes_a_label_records_it(shop):
    import_one(shop, "x", png("white"), label="old")
    import_one(shop, "x", png("white"), label="old")
    import_one(shop, "x", png("white"))
    assert history_of(shop) == []

    import_one(shop, "x", png("white"), label="new")

    ((image_id, old, new_label, who, why),) = history_of(shop)
    assert (old, new_label, who, why) == ("old", "new", "command line", "import (one)")
    assert images_of(shop)[image_id][2:5] == ("new", "command line", "import (one)")


def test_concurrent_runs_add_each_image_once(shop):
    rows = [new(n, png((n, 1, 1)), "birch") for n in range(64)]
    reports = []

    def apply():
        source = LabelSource("rows", rows, len(rows))
        reports.append(apply_labels(shop, source, actor="a", source_name="s"))

    threads = [threading.Thread(target=apply) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(report.num_added for report in reports) == 64
    assert sum(report.num_unchanged for report in reports) == 128
    assert len(history_of(shop)) == 64
