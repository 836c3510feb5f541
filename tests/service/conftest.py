"""A small shop: real files, a real database, a real network at 64 pixels."""

import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from fastapi.testclient import TestClient

from embedding.checkpoint import save_checkpoint
from embedding.model import Architecture, create_model
from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.releases.build import build_release
from service.web.app import create_app
from tests.images import encode, scene

PRODUCTS = ("amber", "birch", "cedar")


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packaged weights at 64 pixels: all the real parts, in milliseconds."""
    directory = tmp_path_factory.mktemp("checkpoints") / "small"
    model, preprocessing = create_model(Architecture(), pretrained=True)
    save_checkpoint(directory, model, replace(preprocessing, image_size=64))
    return directory


def product_image(product_id: str, number: int = 0):
    """Return the image `number` of a product."""
    return scene(1000 * (1 + PRODUCTS.index(product_id)) + number)


def write_shop(folder: Path) -> Path:
    """Write a folder per product: two catalogue images and one example each."""
    for product_id in PRODUCTS:
        for number, name in enumerate(("front.png", "side.png", "example/photo.png")):
            path = folder / product_id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(product_image(product_id, number)))
    return folder


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    """Undo `configure_logging` of a command: its handler would write to the stream of a test that has ended."""
    root, configuration = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    # The handlers that pytest adds and removes by itself stay.
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
    structlog.configure(**configuration)


@pytest.fixture
def settings(new_address: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an empty home folder; its database is SQLite unless the tests were told otherwise."""
    monkeypatch.setenv("AKIN_HOME", str(tmp_path / "home"))
    address = new_address()
    monkeypatch.setenv("AKIN_DATABASE_URL", address)
    return Settings(home=tmp_path / "home", database_url=address, release_poll_seconds=0.05)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    """An installation with an empty catalogue."""
    with open_installation(settings) as opened:
        yield opened


@pytest.fixture
def shop(installation: Installation, tmp_path: Path) -> Installation:
    """An installation whose catalogue holds the three products."""
    source = read_import_source(write_shop(tmp_path / "shop"))
    import_catalogue(source, installation.database, installation.media_store)
    return installation


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """Home of a shop with an active release, for tests that only read."""
    root = tmp_path_factory.mktemp("served")
    with open_installation(Settings(home=root / "home")) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        build_release(opened, checkpoint=small_checkpoint)
    return root / "home"


@pytest.fixture(scope="session")
def client(served_home: Path) -> Iterator[TestClient]:
    """A client of the served shop."""
    settings = Settings(
        home=served_home, release_poll_seconds=0.05, max_image_bytes=300_000, decode_workers=1, search_workers=1
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        wait_for(lambda: opened.get("/readyz").status_code == 200)
        # Starts the threads of the pools: no test starts one that outlives it.
        opened.post("/search", files={"image": encode(product_image(PRODUCTS[0]))}).raise_for_status()
        yield opened


@pytest.fixture(scope="session")
def disk_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes calls to the disk fail, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("faults") / "disk_faults.so"
    source = Path(__file__).parent / "disk_faults.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def wait_for(condition, seconds: float = 20.0) -> None:
    """Wait until something becomes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
