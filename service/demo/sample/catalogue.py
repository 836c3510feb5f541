"""The sample shop as a directory: images, a catalogue to import, and held-out photos to search with."""

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from service.demo.errors import SampleDirectoryNotEmpty
from service.demo.sample.products import SampleProduct, sample_products
from service.demo.sample.views import photo_view, studio_view

CATALOGUE_NAME = "catalogue.csv"
QUERIES_NAME = "queries.csv"
IMAGES_NAME = "images"

MAX_VIEWS = 1000
JPEG_QUALITY = 85

OnProgress = Callable[[int, int], None]  # images drawn, images in all


@dataclass(frozen=True, slots=True)
class SampleCatalogue:
    """What was written; counts are totals."""

    directory: Path
    catalogue_csv: Path
    queries_csv: Path
    num_products: int
    num_examples: int
    num_queries: int


def write_sample_catalogue(
    directory: Path,
    *,
    num_products: int = 120,
    num_examples: int = 3,
    num_queries: int = 2,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> SampleCatalogue:
    """Draw the sample shop into `directory`, atomically.

    `catalogue.csv` (product_id, title, image, role, attributes as JSON) lists one studio view and `num_examples`
    photos of each product; `queries.csv` (product_id, image) lists `num_queries` held-out photos of each.
    Image paths are relative to the CSV files. The same arguments give the same bytes on one machine with the same
    versions of Pillow and numpy; a larger count only adds images.

    Args:
        num_examples: labelled photos of each product, 0..1000.
        num_queries: held-out photos of each product, 0..1000.
        on_progress: called after each product.

    Raises:
        SampleDirectoryNotEmpty: `directory` exists and is not an empty directory.
    """
    for name, value in (("num_examples", num_examples), ("num_queries", num_queries)):
        if not 0 <= value <= MAX_VIEWS:
            raise ValueError(f"{name} must be within 0..{MAX_VIEWS}, got {value}")
    products = sample_products(num_products, seed)
    with _written_aside(directory) as staging:
        _write_tables(staging, products, num_examples, num_queries)
        for done, product in enumerate(products, start=1):
            _write_images(staging, product, num_examples, num_queries)
            if on_progress is not None:
                images_each = 1 + num_examples + num_queries
                on_progress(done * images_each, num_products * images_each)
    return SampleCatalogue(
        directory=directory,
        catalogue_csv=directory / CATALOGUE_NAME,
        queries_csv=directory / QUERIES_NAME,
        num_products=num_products,
        num_examples=num_products * num_examples,
        num_queries=num_products * num_queries,
    )


@contextmanager
def _written_aside(directory: Path) -> Iterator[Path]:
    """Yield a directory to fill, which is renamed to `directory` at the end and removed on any error."""
    _check_is_free(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as outer:
        # Only the owner can read a directory of mkdtemp, so the staging directory is inside it.
        staging = Path(outer) / directory.name
        staging.mkdir()
        yield staging
        _check_is_free(directory)
        if directory.exists():
            directory.rmdir()
        staging.rename(directory)


def _check_is_free(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SampleDirectoryNotEmpty(
            f"{directory} exists and is not an empty directory; choose a new directory, or remove this one first"
        )


def _write_tables(
    directory: Path,
    products: list[SampleProduct],
    num_examples: int,
    num_queries: int,
) -> None:
    catalogue_rows = [["product_id", "title", "image", "role", "attributes"]]
    query_rows = [["product_id", "image"]]
    for product in products:
        attributes = json.dumps(product.attributes, ensure_ascii=False, sort_keys=True)
        images = [("catalogue", _studio_path(product))]
        images += [("example", _example_path(product, view)) for view in range(num_examples)]
        catalogue_rows += [[product.id, product.title, image, role, attributes] for role, image in images]
        query_rows += [[product.id, _query_path(product, view)] for view in range(num_queries)]
    for name, rows in ((CATALOGUE_NAME, catalogue_rows), (QUERIES_NAME, query_rows)):
        with (directory / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def _write_images(directory: Path, product: SampleProduct, num_examples: int, num_queries: int) -> None:
    (directory / _studio_path(product)).parent.mkdir(parents=True)
    _save(studio_view(product), directory / _studio_path(product))
    for view in range(num_examples):
        _save(photo_view(product, view), directory / _example_path(product, view))
    for view in range(num_queries):
        # Numbered after all possible examples, so that no example is ever equal to a query.
        _save(photo_view(product, MAX_VIEWS + view), directory / _query_path(product, view))


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=JPEG_QUALITY)


def _studio_path(product: SampleProduct) -> str:
    return f"{IMAGES_NAME}/{product.id}/studio.jpg"


def _example_path(product: SampleProduct, view: int) -> str:
    return f"{IMAGES_NAME}/{product.id}/example-{view + 1}.jpg"


def _query_path(product: SampleProduct, view: int) -> str:
    return f"{IMAGES_NAME}/{product.id}/query-{view + 1}.jpg"
