"""Fixtures that several rooms share."""

import importlib.util
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from embedding.checkpoint import load_embedder, save_checkpoint
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model
from embedding.runtimes.options import NetworkOptions

# pytest-xdist tells its processes the width of the terminal, which the consoles of the command line would keep.
os.environ.pop("COLUMNS", None)

# pytorch-metric-learning would import this module, which replaces faiss's own methods in the whole process, those of
# the index under test too. An empty one in its place leaves faiss as it is.
sys.modules["faiss.contrib.torch_utils"] = ModuleType("faiss.contrib.torch_utils")

# Real images, where a developer has them; tests that need one skip without it.
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


pytest_plugins = ["tests.leaks"]
# A bare GPU machine, where `make gpu-check` runs the tests marked `gpu`, lacks the libraries of the service.
if all(importlib.util.find_spec(name) for name in ("sqlalchemy", "fastapi", "pydantic_settings", "structlog")):
    pytest_plugins += [
        "tests.service.fixtures.access",
        "tests.service.fixtures.labels",
        "tests.service.fixtures.learning",
        "tests.service.fixtures.shops",
    ]

_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of the service run on the other database, and with the other runtime, too."""
    parser.addoption(
        "--runtime",
        choices=["torch", "onnxruntime"],
        default="torch",
        help="AKIN_RUNTIME of all installations. torch is the default: each home exports its network once, in ten "
        "seconds (tests of ONNX Runtime itself use it all the same).",
    )
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="Where installations of tests/service keep their tables (tests of both run on both all the same).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Set the runtime for the processes that tests start, too."""
    os.environ["AKIN_RUNTIME"] = config.getoption("--runtime")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, on the other database, the tests that would do there what they do in every run."""
    if config.getoption("--database") == "sqlite":
        return
    # Every database that is where the option says comes from this fixture.
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        is_told_where = "new_address" in getattr(item, "fixturenames", ())
        is_repeated = is_told_where and item.get_closest_marker("one_database") is None
        (chosen if is_repeated else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen
    config.stash[_LEFT_OUT] = len(left_out)


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    """Say what was left out, and why."""
    if _LEFT_OUT not in config.stash:
        return None
    return (
        f"--database {config.getoption('--database')}: {config.stash[_LEFT_OUT]} tests left out: they open no "
        "database, always the same one, or both in every run, or say that it makes no difference (one_database)"
    )


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Address of a real PostgreSQL server, for as long as the tests run."""
    # Imported here, since the tests marked `gpu` also run where there is neither psycopg nor SQLAlchemy.
    from tests.databases import PostgreSQL

    # Not among pytest's own folders: a session that starts beside this one closes them to other users, and as root the
    # server runs as one.
    with tempfile.TemporaryDirectory(prefix="akin-postgresql-") as folder:
        Path(folder).chmod(0o755)
        server = PostgreSQL(Path(folder) / "data")
        yield server.address
        server.stop()


@pytest.fixture(scope="session")
def new_address(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Make a database where --database says, and return the setting; `like`: that of one to be copied.

    Empty on SQLite, where each home folder has its own.
    """
    if request.config.getoption("--database") == "sqlite":
        return lambda like="": ""
    from service.storage.database import open_database
    from tests.databases import new_database

    server: str = request.getfixturevalue("postgresql")
    migrated = new_database(server)
    open_database(migrated).close()
    return lambda like="": new_database(server, like=like or migrated)


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
    return load_embedder(zero_shot_checkpoint, NetworkOptions("cpu"))


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
