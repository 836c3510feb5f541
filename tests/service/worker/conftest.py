"""A shop that can learn within seconds, on SQLite and on a real PostgreSQL, and workers in processes of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.demo.sample.catalogue import write_sample_catalogue
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.operations.records import create_operation, get_operation
from service.operations.requests import RETRAIN, parse_retrain
from service.releases.build import build_release
from service.storage.tables.operations import Operation
from tests.databases import new_database

# The active release sees 64 pixels, and a candidate 112: better for certain, after seconds of training.
FAST = (
    "network.image_size=112", "augmentation.views=1", "augmentation.catalogue_views=2",
    "augmentation.catalogue_scenes=2", "steps=60", "evaluation.every=30",
)  # fmt: skip
ROOT = Path(__file__).parents[3]
DATABASES = ("sqlite", "postgresql")


@dataclass(slots=True)
class Works:
    """An installation with work to do, and the processes that do it."""

    home: Path
    database_url: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, database_url=self.database_url, device="cpu", release_poll_seconds=0.1)

    def open(self):
        return open_installation(self.settings)

    def ask(self, *, kind: str = RETRAIN, **changes) -> str:
        """Queue a retrain that takes seconds."""
        # More pixels take longer, which is no news here.
        fast = {"preset": "head", "overrides": FAST, "gate": {"max_latency_ratio": 1000}}
        asked = {**fast, **changes} if kind == RETRAIN else changes
        if kind == RETRAIN:
            asked = parse_retrain(asked).model_dump(mode="json")
        with self.open() as installation:
            return create_operation(installation.database, kind, asked, actor="test")[0].id

    def operation(self, operation_id: str) -> Operation:
        with self.open() as installation, installation.database.reading() as session:
            return get_operation(session, operation_id)

    def start_worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a worker; it ends by itself when there is nothing left to do."""
        command = [sys.executable, "-m", "tests.service.worker.worker_process", str(self.home), *arguments]
        if self.database_url:
            command += ["--database-url", self.database_url]
        path = self.home.parent / f"worker-{len(self.processes)}.log"
        with path.open("wb") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        self.processes.append(process)
        return process

    def work(self, *arguments: str, seconds: float = 120) -> int:
        """Run a worker to its end and return its exit status."""
        return self.start_worker(*arguments).wait(seconds)

    def last_log(self) -> str:
        return (self.home.parent / f"worker-{len(self.processes) - 1}.log").read_text(errors="replace")


@pytest.fixture(scope="session")
def learning_shop(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """A shop of 30 drawn products with three examples each, whose release sees little. Copied, not used."""
    root = tmp_path_factory.mktemp("learning-shop")
    write_sample_catalogue(root / "sample", num_products=30)
    fill(Settings(home=root / "home", device="cpu"), root / "sample", small_checkpoint)
    return root


@pytest.fixture(scope="session")
def learning_shop_where_told(learning_shop: Path, small_checkpoint: Path, new_address: Callable[..., str]) -> Works:
    """The same where --database says."""
    address = new_address()
    if not address:
        return Works(learning_shop / "home")
    made = Works(learning_shop / "home-elsewhere", address)
    fill(made.settings, learning_shop / "sample", small_checkpoint)
    return made


def fill(settings: Settings, sample: Path, checkpoint: Path) -> None:
    with open_installation(settings) as opened:
        import_catalogue(read_import_source(sample), opened.database, opened.media_store)
        build_release(opened, checkpoint=checkpoint)


def copied_shop(root: Path, learning_shop: Path) -> Works:
    shutil.copytree(learning_shop / "home", root / "home")
    return Works(root / "home")


def stop_all(works: Works) -> None:
    for process in works.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def works(tmp_path: Path, learning_shop: Path) -> Iterator[Works]:
    """A shop of one's own, on SQLite."""
    made = copied_shop(tmp_path, learning_shop)
    yield made
    stop_all(made)


@pytest.fixture
def works_where_told(
    tmp_path: Path, learning_shop_where_told: Works, new_address: Callable[..., str]
) -> Iterator[Works]:
    """A shop of one's own, where --database says."""
    given = learning_shop_where_told
    shutil.copytree(given.home, tmp_path / "home")
    made = Works(tmp_path / "home", new_address(like=given.database_url))
    yield made
    stop_all(made)


@pytest.fixture(params=DATABASES)
def works_on_both(
    request: pytest.FixtureRequest, tmp_path: Path, learning_shop: Path, small_checkpoint: Path
) -> Iterator[Works]:
    """A shop of one's own, on each database."""
    if request.param == "sqlite":
        made = copied_shop(tmp_path, learning_shop)
    else:
        made = Works(tmp_path / "home", new_database(request.getfixturevalue("postgresql")))
        fill(made.settings, learning_shop / "sample", small_checkpoint)
    yield made
    stop_all(made)


@pytest.fixture(params=DATABASES)
def installation_on_both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """An empty installation on each database."""
    address = new_database(request.getfixturevalue("postgresql")) if request.param == "postgresql" else ""
    with open_installation(Settings(home=tmp_path / "home", database_url=address)) as opened:
        yield opened
