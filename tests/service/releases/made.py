"""Releases of any number of rows, without a database or images."""

import json
from pathlib import Path

from embedding.artifact import new_artifact, read_manifest
from index.structures import IndexOptions
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.releases.files import KIND, write_release
from service.storage.media import MediaName
from tests.index.rows import random_rows


def write_release_of(directory: Path, checkpoint: Path, num_rows: int, *, without: str | None = None) -> Path:
    """Write a release of random embeddings, four images a product; `without` leaves out one of its files."""
    images = [
        CatalogueImage(
            f"{number:08d}",
            f"product-{number // 4}",
            f"Product {number // 4}",
            {"number": number},
            MediaName(f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**256:064x}", "png"),
        )
        for number in range(num_rows)
    ]
    write_release(
        directory.parent,
        directory.name,
        checkpoint,
        CatalogueContents(0, images),
        random_rows(num_rows, 4),
        IndexOptions(structure="exact", device="cpu"),
        created_at="2026-01-01T00:00:00Z",
    )
    if without is not None:
        _write_again(directory, without)
    return directory


def _write_again(directory: Path, without: str) -> None:
    facts = json.loads(json.dumps(read_manifest(directory, KIND)["facts"]))
    whole = directory.rename(directory.with_name(f"{directory.name}-whole"))
    with new_artifact(directory, KIND, facts) as draft:
        for path in whole.iterdir():
            if path.name not in (without, "manifest.json"):
                path.rename(draft.path / path.name)
