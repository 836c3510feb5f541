"""Indexes that several tests search and none changes."""

import pytest

from index.vector_index import VectorIndex
from tests.index.rows import clustered_rows, index_over, random_rows


@pytest.fixture(scope="session")
def exact_index(tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    """500 rows of 48 dimensions, five of each product, searched exactly."""
    return index_over(tmp_path_factory.mktemp("exact") / "index", random_rows(500, 48), images_per_product=5)


@pytest.fixture(scope="session")
def ivf_index(tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    """60,000 clustered rows of 32 dimensions, three of each product, with the default options."""
    rows = clustered_rows(60_000, 32, 400)
    return index_over(tmp_path_factory.mktemp("ivf") / "index", rows, images_per_product=3)
