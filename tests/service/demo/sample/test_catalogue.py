import csv
import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from service.demo.errors import SampleDirectoryNotEmpty
from service.demo.sample.catalogue import write_sample_catalogue

# Twelve images: three products with a studio view, two examples and a query each.
write_small = partial(write_sample_catalogue, num_products=3, num_examples=2, num_queries=1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests_of(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def image_digests(directory: Path) -> set[str]:
    return {digest for name, digest in digests_of(directory).items() if name.endswith(".jpg")}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample") / "shop"
    write_small(directory)
    return directory


def test_the_catalogue_lists_one_studio_view_and_the_examples_of_each_product(written):
    rows = rows_of(written / "catalogue.csv")

    assert list(rows[0]) == ["product_id", "title", "image", "role", "attributes"]
    assert [row["role"] for row in rows] == ["catalogue", "example", "example"] * 3
    assert [row["product_id"] for row in rows[::3]] == ["sample-0000", "sample-0001", "sample-0002"]


def test_attributes_are_json_objects_of_strings(written):
    for row in rows_of(written / "catalogue.csv"):
        attributes = json.loads(row["attributes"])
        assert set(attributes) == {"brand", "category", "kind", "flavour", "colour", "size"}
        assert all(isinstance(value, str) and value for value in attributes.values())


def test_all_images_are_listed_and_all_listed_images_can_be_opened(written):
    listed = [row["image"] for name in ("catalogue.csv", "queries.csv") for row in rows_of(written / name)]

    assert sorted(listed) == sorted(path.relative_to(written).as_posix() for path in written.rglob("*.jpg"))
    for image in listed:
        with Image.open(written / image) as opened:
            assert opened.format == "JPEG"
            assert max(opened.size) == 320


def test_queries_are_held_out_of_the_catalogue(written):
    catalogue, queries = rows_of(written / "catalogue.csv"), rows_of(written / "queries.csv")
    digests = digests_of(written)

    assert [row["product_id"] for row in queries] == ["sample-0000", "sample-0001", "sample-0002"]
    known = {digests[row["image"]] for row in catalogue}
    assert known.isdisjoint(digests[row["image"]] for row in queries)


def test_the_same_seed_writes_the_same_bytes(written, tmp_path):
    write_small(tmp_path / "again")

    assert digests_of(tmp_path / "again") == digests_of(written)


def test_another_seed_writes_other_images(written, tmp_path):
    write_small(tmp_path / "other", seed=1)

    assert image_digests(tmp_path / "other").isdisjoint(image_digests(written))


def test_larger_counts_only_add_images(written, tmp_path):
    write_sample_catalogue(tmp_path / "larger", num_products=4, num_examples=3, num_queries=2)

    larger = digests_of(tmp_path / "larger")
    images = {name: digest for name, digest in digests_of(written).items() if name.endswith(".jpg")}
    assert images.items() <= larger.items()


def test_reports_paths_counts_and_progress(tmp_path):
    progress = []

    result = write_small(tmp_path / "shop", on_progress=lambda done, total: progress.append((done, total)))

    assert progress == [(4, 12), (8, 12), (12, 12)]
    assert (result.num_products, result.num_examples, result.num_queries) == (3, 6, 3)
    assert result.directory == tmp_path / "shop"
    assert result.catalogue_csv.is_file()
    assert result.queries_csv.is_file()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path, interruption):
    def interrupt(done: int, _total: int) -> None:
        if done > 4:
            raise interruption

    with pytest.raises(interruption):
        write_small(tmp_path / "shop", on_progress=interrupt)

    assert list(tmp_path.iterdir()) == []


def test_refuses_a_directory_that_is_not_empty(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")

    with pytest.raises(SampleDirectoryNotEmpty, match="choose a new directory") as refusal:
        write_small(tmp_path)

    assert str(tmp_path) in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_refuses_a_file(tmp_path):
    (tmp_path / "shop").write_text("keep")

    with pytest.raises(SampleDirectoryNotEmpty):
        write_small(tmp_path / "shop")


def test_does_not_replace_a_directory_that_appears_while_drawing(tmp_path):
    def fill(_done: int, _total: int) -> None:
        (tmp_path / "shop").mkdir(exist_ok=True)
        (tmp_path / "shop" / "mine.txt").write_text("keep")

    with pytest.raises(SampleDirectoryNotEmpty):
        write_small(tmp_path / "shop", on_progress=fill)

    assert (tmp_path / "shop" / "mine.txt").read_text() == "keep"
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_fills_an_empty_directory_and_makes_missing_parents(tmp_path):
    (tmp_path / "empty").mkdir()

    for directory in (tmp_path / "empty", tmp_path / "a" / "b"):
        write_sample_catalogue(directory, num_products=1, num_examples=0, num_queries=0)
        assert len(rows_of(directory / "catalogue.csv")) == 1
        assert rows_of(directory / "queries.csv") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_products", 0),
        ("num_products", 10_001),
        ("num_examples", -1),
        ("num_queries", 1001),
        ("seed", -1),
    ],
)
def test_refuses_arguments_out_of_range(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"{name} .* got {value}"):
        write_small(tmp_path / "shop", **{name: value})

    assert list(tmp_path.iterdir()) == []
