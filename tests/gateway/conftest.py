"""A real nginx with the shipped configuration, in front of two real servers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from benchmarks.gateway import KEY, Gateway, Replica, gateway_before, missing_programs, upstream_file
from benchmarks.rolling_restart import Query
from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.build import build_release
from tests.images import encode, scene
from tests.service.conftest import PRODUCTS, product_image, write_shop
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

FOLDER = Path(__file__).parent
PREFIX = "/akin"
MAX_IMAGE_BYTES = 200_000
MAX_UPLOAD_BYTES = 300_000
MAX_SEARCHES = 24
ADMIN = {"Authorization": f"Bearer {KEY}"}

Gateways: TypeAlias = Callable[..., Gateway]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder: each needs nginx or a process that a fixture starts."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    if missing := missing_programs():
        pytest.skip(f"not installed: {missing}")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a shop with an active release of a tiny model."""
    root = tmp_path_factory.mktemp("gateway")
    with open_installation(Settings(home=root / "home")) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        build_release(opened, checkpoint=save_tiny_checkpoint(root / "tiny"))
    return root / "home"


@pytest.fixture(scope="session")
def replicas(home: Path) -> Iterator[tuple[Replica, Replica]]:
    """Two servers on one home, below a path prefix."""
    settings = {
        "AKIN_ROOT_PATH": PREFIX,
        "AKIN_MAX_IMAGE_BYTES": str(MAX_IMAGE_BYTES),
        "AKIN_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
        "AKIN_MAX_SEARCHES": str(MAX_SEARCHES),
        "AKIN_DRAIN_SECONDS": "0.3",
        # Searches that occupy a server's slots must not time out before the test ends.
        "AKIN_BODY_TIMEOUT_SECONDS": "300",
    }
    first, second = (Replica(home, home.parent / f"server-{name}.log", **settings) for name in "ab")
    with ExitStack() as stack:
        for replica in (first, second):
            stack.callback(lambda stopped: stopped.kill(), replica)
        for replica in (first, second):
            replica.wait_until_ready()
        yield first, second


@pytest.fixture(scope="session")
def gateway(replicas: tuple[Replica, Replica]) -> Iterator[Gateway]:
    """A gateway without rate limits."""
    with gateway_before(upstream_file([replica.port for replica in replicas]), AKIN_ROOT_PATH=PREFIX) as running:
        yield running


@pytest.fixture
def gateways(replicas: tuple[Replica, Replica]) -> Iterator[Gateways]:
    """Return a function that starts a gateway with other values, in front of the two servers or of others."""
    with ExitStack() as stack:

        def start(upstream: str | None = None, **values: str) -> Gateway:
            shown = upstream or upstream_file([replica.port for replica in replicas])
            return stack.enter_context(gateway_before(shown, **{"AKIN_ROOT_PATH": PREFIX, **values}))

        yield start


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of the gateway, below its prefix."""
    with httpx.Client(verify=False, base_url=gateway.address + PREFIX, timeout=30) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _logs_of_failures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what the gateway and the servers logged during a test; pytest shows it for a failed test."""
    logs: dict[Path, int] = {}
    if "replicas" in request.fixturenames:
        first, second = request.getfixturevalue("replicas")
        logs = {log: log.stat().st_size for log in (first.log, second.log)}
    if "gateway" in request.fixturenames:
        log = request.getfixturevalue("gateway").log
        logs[log] = log.stat().st_size
    yield
    for log, size in logs.items():
        sys.stdout.write(f"--- {log}\n{log.read_bytes()[size:].decode(errors='replace')[-4000:]}\n")


@pytest.fixture(scope="session")
def image() -> bytes:
    """An image that is in the catalogue."""
    return encode(scene(1000))


@pytest.fixture(scope="session")
def queries() -> list[Query]:
    """The first image of each product."""
    return [Query(encode(product_image(product_id)), product_id) for product_id in PRODUCTS]
