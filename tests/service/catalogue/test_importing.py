"""Imports: idempotent, resumable, and not stopped by bad rows."""

import json
from itertools import pairwise

import pytest
from sqlalchemy import select

from embedding.decoding import DecodingLimits
from service.catalogue import importing
from service.catalogue.editing import remove_products
from service.catalogue.errors import ProductNotFound
from service.catalogue.images import chunks_of_rows
from service.catalogue.importing import import_catalogue
from service.catalogue.queries import count_catalogue
from service.catalogue.records import read_catalogue
from service.catalogue.reports import write_report
from service.catalogue.sources import ImportSource, RowError, SourceRow, read_import_source
from service.errors import StorageFull
from service.storage.tables.catalogue import MediaObject, Product, ProductImage
from tests.images import png
from tests.service.conftest import write_shop
from tests.service.fixtures.statements import counted


@pytest.fixture
def run(installation):
    """Import rows into the installation."""

    def run(rows, **options):
        source = rows if isinstance(rows, ImportSource) else ImportSource("rows", list(rows), len(rows))
        return import_catalogue(source, installation.database, installation.media_store, **options)

    return run


@pytest.fixture
def image(tmp_path):
    """Write a one-colour image and return its path."""

    def write(colour):
        path = tmp_path / f"{colour}.png"
        path.write_bytes(png(colour))
        return path

    return write


def contents(installation):
    """Return everything that an import may change, except times."""
    with installation.database.reading() as session:
        products = [(p.id, p.title, p.attributes, p.change_seq, p.deleted_at) for p in session.scalars(select(Product))]
        images = [
            (i.id, i.product_id, i.sha256, i.role, i.label, i.change_seq, i.deleted_at)
            for i in session.scalars(select(ProductImage))
        ]
    return sorted(products), sorted(images)


def files_of(installation):
    root = installation.settings.home / "media"
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_imports_products_images_and_roles(installation, run, tmp_path):
    report = run(read_import_source(write_shop(tmp_path / "shop")))

    assert (report.num_products_added, report.num_images_added, report.errors) == (3, 9, [])
    with installation.database.reading() as session:
        counts = count_catalogue(session)
        catalogue = read_catalogue(session)
    assert (counts.num_products, counts.num_images) == (3, {"catalogue": 6, "example": 3})
    assert len(catalogue.images) == 6
    assert catalogue.watermark == counts.watermark == 12
    assert len(files_of(installation)) == 9


def test_importing_twice_changes_nothing(installation, run, tmp_path):
    source = read_import_source(write_shop(tmp_path / "shop"))
    run(source)
    before = contents(installation)

    report = run(source)

    assert report.num_unchanged == 9
    assert report.num_products_added == report.num_images_added == report.num_images_updated == 0
    assert contents(installation) == before


def test_change_numbers_are_unique_and_gapless(installation, run, tmp_path):
    run(read_import_source(write_shop(tmp_path / "shop")))

    products, images = contents(installation)
    seqs = sorted([row[3] for row in products] + [row[5] for row in images])
    assert all(after - before == 1 for before, after in pairwise(seqs))


def test_a_dry_run_reads_everything_and_writes_nothing(installation, run, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "CHUNK_ROWS", 2)
    shop = write_shop(tmp_path / "shop")
    (shop / "cedar" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    dry = run(read_import_source(shop), dry_run=True)

    assert contents(installation) == ([], [])
    assert files_of(installation) == []
    real = run(read_import_source(shop))
    assert (dry.num_products_added, dry.num_images_added) == (real.num_products_added, real.num_images_added) == (3, 9)
    assert dry.errors == real.errors
    assert len(real.errors) == 1


def test_an_interrupted_import_can_be_resumed(installation, run, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "CHUNK_ROWS", 2)
    source = read_import_source(write_shop(tmp_path / "shop"))

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, on_progress=stop)
    assert len(contents(installation)[1]) == 4
    report = run(source)

    assert (report.num_unchanged, report.num_images_added) == (4, 5)
    assert len(contents(installation)[1]) == 9


def test_bad_rows_are_reported_and_the_others_imported(run, image, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    big = tmp_path / "big.png"
    big.write_bytes(b"x" * 3000)
    rows = [
        SourceRow("r:1", "a", tmp_path / "missing.jpg"),
        SourceRow("r:2", "b", tmp_path / "text.jpg"),
        SourceRow("r:3", "c", tmp_path / "empty.jpg"),
        SourceRow("r:4", "d", big),
        SourceRow("r:5", "e", tmp_path),
        SourceRow("r:6", "f", tmp_path / "nul\0.jpg"),
        SourceRow("r:7", "good", image("red")),
    ]

    report = run(rows, limits=DecodingLimits(max_image_bytes=2000))

    assert report.num_images_added == 1
    messages = {error.location: error.message for error in report.errors}
    assert "does not exist" in messages["r:1"]
    assert "supported format" in messages["r:2"]
    assert "empty" in messages["r:3"]
    assert "3,000 bytes; at most 2,000" in messages["r:4"]
    assert "is not a file" in messages["r:5"]
    assert "cannot be read" in messages["r:6"]


def test_two_products_may_share_the_same_bytes(installation, run, image):
    report = run([SourceRow("1", "a", image("red")), SourceRow("2", "b", image("red"))])

    assert (report.num_products_added, report.num_images_added) == (2, 2)
    assert len(files_of(installation)) == 1
    with installation.database.reading() as session:
        assert len(session.scalars(select(MediaObject)).all()) == 1


def test_titles_and_attributes_follow_the_source(installation, run, image):
    run([SourceRow("1", "a", image("red"), title="Old", attributes={"size": 1})])

    kept = run([SourceRow("1", "a", image("red"))])
    changed = run([SourceRow("1", "a", image("red"), title="New", attributes={"size": 2})])

    assert (kept.num_unchanged, changed.num_products_updated, changed.num_images_updated) == (1, 1, 0)
    ((_, title, attributes, seq, _),) = contents(installation)[0]
    assert (title, attributes, seq) == ("New", {"size": 2}, 3)


def test_roles_and_labels_follow_the_source(installation, run, image):
    run([SourceRow("1", "a", image("red"), role="catalogue")])

    report = run([SourceRow("1", "a", image("red"), role="example", label="apple")])

    assert report.num_images_updated == 1
    ((_, _, _, role, label, seq, _),) = contents(installation)[1]
    assert (role, label, seq) == ("example", "apple", 3)


def test_rows_that_contradict_each_other_are_reported(run, image):
    rows = [
        SourceRow("1", "a", image("red"), title="One", attributes={"x": 1}),
        SourceRow("2", "a", image("red"), role="example"),
        SourceRow("3", "a", image("blue"), title="Two"),
        SourceRow("4", "a", image("green"), attributes={"x": 2}),
        SourceRow("5", "a", image("red")),
        SourceRow("6", "b", image("red"), label="x"),
        SourceRow("7", "b", image("red"), label="y"),
    ]

    report = run(rows)

    messages = {error.location: error.message for error in report.errors}
    assert "role catalogue at 1 and example here" in messages["2"]
    assert "'One' at 1 and 'Two' here" in messages["3"]
    assert "differ from those at 1" in messages["4"]
    assert "label 'x' at 6 and 'y' here" in messages["7"]
    assert (report.num_images_added, report.num_unchanged) == (2, 1)


def test_removed_products_leave_the_catalogue_and_return_when_imported(installation, run, tmp_path):
    source = read_import_source(write_shop(tmp_path / "shop"))
    run(source)

    with installation.database.transaction() as session:
        assert remove_products(session, ["amber"]) == 3
    with installation.database.reading() as session:
        assert {image.product_id for image in read_catalogue(session).images} == {"birch", "cedar"}
        assert count_catalogue(session).watermark == 16
    report = run(source)

    assert (report.num_products_updated, report.num_images_updated, report.num_unchanged) == (1, 3, 6)
    with installation.database.reading() as session:
        assert len(read_catalogue(session).images) == 6


def test_removing_an_unknown_product_changes_nothing(shop):
    before = contents(shop)

    with pytest.raises(ProductNotFound, match="'zebra'"), shop.database.transaction() as session:
        remove_products(session, ["amber", "zebra"])

    assert contents(shop) == before


def test_an_image_missing_from_the_store_is_stored_again(installation, run, image):
    rows = [SourceRow("1", "a", image("red"))]
    run(rows)
    (path,) = (path for path in (installation.settings.home / "media").rglob("*") if path.is_file())
    path.unlink()

    run(rows)

    assert path.exists()


def test_a_full_disk_leaves_no_row_without_its_image(installation, run, image, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedding.whole_files.os.fsync", full)

    with pytest.raises(StorageFull, match="the disk of the images is full"):
        run([SourceRow("1", "a", image("red"))])

    assert contents(installation) == ([], [])
    assert files_of(installation) == []


def test_the_report_is_written_as_json(run, tmp_path):
    report = run([SourceRow("r:1", "a", tmp_path / "missing.jpg")])

    path = write_report(report, tmp_path / "reports", "import")

    assert json.loads(path.read_text())["errors"][0]["location"] == "r:1"


def test_all_errors_are_counted_and_handed_over_and_the_first_are_kept(run, monkeypatch, tmp_path):
    monkeypatch.setattr("service.catalogue.reports.MAX_KEPT_ERRORS", 3)
    monkeypatch.setattr(importing, "CHUNK_ROWS", 4)
    handed_over: list[list[RowError]] = []

    report = run([SourceRow(f"{n}", "a", tmp_path / "none.png") for n in range(10)], on_error=handed_over.append)

    assert (len(report.errors), report.num_failed) == (3, 10)
    assert [len(errors) for errors in handed_over] == [4, 4, 2]
    assert report.reasons().endswith("and 7 more")


def test_known_rows_are_neither_decoded_nor_written_and_cost_few_statements(installation, run, tmp_path, monkeypatch):
    rows = [SourceRow(f"{n}", f"p{n % 50}", tmp_path / f"{n}.png", title="T", label=f"{n % 7}") for n in range(400)]
    for n, row in enumerate(rows):
        row.image.write_bytes(png((n % 256, n // 256, 7)))
    with counted(installation.database) as of_new:
        report = run(rows)
    assert (report.num_images_added, report.num_failed) == (400, 0)
    monkeypatch.setattr("service.catalogue.images.decode_with_format", None)
    monkeypatch.setattr("embedding.whole_files.os.fsync", None)

    with counted(installation.database) as of_known:
        report = run(rows)

    assert (report.num_unchanged, report.num_failed) == (400, 0)
    assert len(of_new) <= 12, of_new
    assert len(of_known) <= 3, of_known
    assert not any("change_counter" in statement for statement in of_known)


def test_a_chunk_holds_a_bounded_number_of_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr("service.catalogue.images._CHUNK_BYTES", 100)
    rows = [SourceRow(f"{n}", "a", tmp_path / f"{n}") for n in range(6)]
    for row, num_bytes in zip(rows, (60, 40, 1, 500, 10, 10), strict=True):
        row.image.write_bytes(bytes(num_bytes))

    assert [len(chunk) for chunk in chunks_of_rows(rows, 1_000)] == [2, 1, 1, 2]
    assert [len(chunk) for chunk in chunks_of_rows(rows, 1)] == [1] * 6
