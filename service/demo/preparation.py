"""Prepare the demo and check it with searches over HTTP; each step is announced with its duration."""

import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from service.catalogue.importing import import_catalogue
from service.catalogue.queries import count_catalogue
from service.catalogue.reports import OnProgress
from service.catalogue.sources import ImportSource, SourceRow, read_import_source
from service.demo.errors import DemoError
from service.demo.sample.catalogue import CATALOGUE_NAME, QUERIES_NAME, write_sample_catalogue
from service.embeddings.stored import OnEmbedded
from service.installation.installation import Installation
from service.installation.settings import Settings
from service.releases.build import build_release
from service.releases.files import verify_release
from service.releases.records import active_release
from service.storage.tables.catalogue import CATALOGUE

Announce = Callable[[str], None]

_STATE_NAME = "demo.json"
_SAMPLE_NAME = "sample"
_NUM_PRODUCTS = 120
_MAX_QUERIES = 300
_READY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class DemoImages:
    """Where the demo's images come from; the choice is fixed for a home folder."""

    kind: str  # "sample", "grocery" or "folder"
    path: str
    # A lower recall@1 of the untrained model means that something is broken; docs/demo.md has the measured values.
    min_recall: float


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that is ready to be served, with the images held out of its catalogue."""

    images: DemoImages
    release_id: str
    queries: list[tuple[str, Path]]  # (product id, image file)
    rows: list[SourceRow]  # imported


def prepare_demo(installation: Installation, *, announce: Announce, on_progress: OnEmbedded) -> Demo:
    """Fill the catalogue and build a release, unless both exist.

    Raises DemoError if the home folder holds another catalogue, which the demo must not change.
    """
    images = _choose_images(installation.settings)
    _check_home(installation, images)
    with step(announce, f"images: {_describe(images)}"):
        source, queries = _read_images(images, on_progress)
    rows = [row for row in source.rows if isinstance(row, SourceRow)]
    with step(announce, f"catalogue: {len(rows)} images"):
        # An import is idempotent and resumes an interrupted one.
        report = import_catalogue(
            source,
            installation.database,
            installation.media_store,
            limits=installation.limits,
            on_progress=on_progress,
        )
    for error in report.errors[:5]:
        announce(f"  not imported: {error.location}: {error.message}")
    release_id = _release_of_catalogue(installation)
    if release_id is not None:
        announce(f"release {release_id} already holds this catalogue")
        return Demo(images, release_id, queries, rows)
    with step(announce, "release: embedded, indexed, published"):
        built = build_release(installation, on_progress=on_progress)
    announce(f"release {built.release_id}: {built.num_products} products, {built.num_images} images")
    return Demo(images, built.release_id, queries, rows)


def check_demo(demo: Demo, address: str, *, announce: Announce) -> float:
    """Search the held-out images over HTTP and return recall@1; raises DemoError below the minimum."""
    if not demo.queries:
        raise DemoError(f"{demo.images.path} has no image to search with; give products at least two images")
    # Evenly spaced, so that a subset covers all products.
    stride = max(1, -(-len(demo.queries) // _MAX_QUERIES))
    queries = demo.queries[::stride]
    num_first = num_in_ten = 0
    title = f"search: {len(queries)} held-out images over HTTP"
    with step(announce, title), httpx.Client(base_url=address, timeout=_READY_SECONDS) as client:
        _wait_until_ready(client)
        for product_id, path in queries:
            found = _search(client, path)
            num_first += found[:1] == [product_id]
            num_in_ten += product_id in found
    recall = num_first / len(queries)
    announce(f"recall@1 {recall:.2f} ({len(queries)} queries)")
    announce(f"recall@10 {num_in_ten / len(queries):.2f} ({len(queries)} queries)")
    if recall < demo.images.min_recall:
        raise DemoError(f"recall@1 {recall:.2f} is below the minimum of {demo.images.min_recall:.2f}")
    announce(f"ok: recall@1 is at least the minimum of {demo.images.min_recall:.2f}")
    return recall


def _choose_images(settings: Settings) -> DemoImages:
    if settings.demo_data is None:
        return DemoImages("sample", str((settings.home / _SAMPLE_NAME).absolute()), min_recall=0.30)
    path = settings.demo_data.absolute()
    if not path.is_dir():
        raise DemoError(
            f"AKIN_DEMO_DATA={settings.demo_data} is not a folder; unpack an archive first, or unset it for a "
            "catalogue that Akin draws"
        )
    if read_import_source(path).layout == "GroceryStoreDataset":
        return DemoImages("grocery", str(path), min_recall=0.20)
    # For an unknown folder, the search only has to beat chance.
    return DemoImages("folder", str(path), min_recall=0.05)


def _describe(images: DemoImages) -> str:
    return {
        "sample": "a catalogue of packaged products that Akin draws (AKIN_DEMO_DATA is not set)",
        "grocery": f"the GroceryStoreDataset in {images.path} (AKIN_DEMO_DATA)",
        "folder": f"those in {images.path} (AKIN_DEMO_DATA)",
    }[images.kind]


def _read_images(images: DemoImages, on_progress: OnProgress) -> tuple[ImportSource, list[tuple[str, Path]]]:
    path = Path(images.path)
    if images.kind == "sample":
        if not path.exists():
            write_sample_catalogue(path, num_products=_NUM_PRODUCTS, on_progress=on_progress)
        return read_import_source(path / CATALOGUE_NAME), _sample_queries(path)
    source = read_import_source(path)
    if images.kind == "grocery":
        return source, _grocery_queries(source)
    return _hold_out(source)


def _sample_queries(path: Path) -> list[tuple[str, Path]]:
    with (path / QUERIES_NAME).open(encoding="utf-8", newline="") as file:
        return [(record["product_id"], path / record["image"]) for record in csv.DictReader(file)]


def _grocery_queries(source: ImportSource) -> list[tuple[str, Path]]:
    """Return the photos that test.txt lists, which are not imported, with the products of their classes."""
    product_of = {str(class_id): row.product_id for class_id, row in enumerate(_catalogue_rows(source))}
    first = _catalogue_rows(source)[0]
    root = next((path for path in first.image.parents if (path / "test.txt").is_file()), None)
    if root is None:
        raise DemoError(
            "the GroceryStoreDataset lacks test.txt, which lists the photos to search with; unpack all of it"
        )
    try:
        lines = (root / "test.txt").read_text(encoding="utf-8").splitlines()
        fields = [line.split(",") for line in lines if line.strip()]
        return [(product_of[class_id.strip()], root / path.strip()) for path, class_id, _ in fields]
    except (OSError, ValueError, KeyError) as error:
        raise DemoError(f"{root / 'test.txt'} cannot be read: {error!r}") from error


def _hold_out(source: ImportSource) -> tuple[ImportSource, list[tuple[str, Path]]]:
    """Hold out the last catalogue image of each product that has several, to search with."""
    rows_of: dict[str, list[SourceRow]] = {}
    for row in _catalogue_rows(source):
        rows_of.setdefault(row.product_id, []).append(row)
    held_out = [rows[-1] for rows in rows_of.values() if len(rows) > 1]
    held_out_locations = {row.location for row in held_out}
    kept = [row for row in source.rows if row.location not in held_out_locations]
    queries = [(row.product_id, row.image) for row in held_out]
    return replace(source, rows=kept, num_rows=len(kept)), queries


def _catalogue_rows(source: ImportSource) -> list[SourceRow]:
    return [row for row in source.rows if isinstance(row, SourceRow) and row.role == CATALOGUE]


def _check_home(installation: Installation, images: DemoImages) -> None:
    """Raise DemoError if the home folder holds another catalogue; record the choice of images in a new one."""
    remedy = "set AKIN_HOME to another folder for this demo, for example AKIN_HOME=akin-demo"
    home = installation.settings.home
    state = _read_state(installation.settings)
    with installation.database.reading() as session:
        num_products = count_catalogue(session).num_products
    if state is None and num_products > 0:
        raise DemoError(f"{home} holds a catalogue of {num_products} products that is not the demo's; {remedy}")
    # The sample is inside the home folder, so its path changes when the folder is moved.
    is_own_sample = state is not None and state["kind"] == images.kind and images.kind == "sample"
    if state is not None and not is_own_sample and (state["kind"], state["path"]) != (images.kind, images.path):
        raise DemoError(f"{home} holds a demo of other images ({state['kind']}: {state['path']}); {remedy}")
    if state is None:
        _state_path(installation.settings).write_text(json.dumps(asdict(images), indent=2) + "\n", encoding="utf-8")


def _release_of_catalogue(installation: Installation) -> str | None:
    """Return the id of the active release if it was built from the present catalogue."""
    with installation.database.reading() as session:
        watermark, release_id = count_catalogue(session).watermark, active_release(session).release_id
    if release_id is None:
        return None
    facts = verify_release(installation.settings.releases_dir, release_id)
    return release_id if facts["watermark"] == watermark else None


def is_demo_home(settings: Settings) -> bool:
    """Return whether the catalogue in the home folder is the demo's."""
    return _state_path(settings).exists()


def _state_path(settings: Settings) -> Path:
    return settings.home / _STATE_NAME


def _read_state(settings: Settings) -> dict[str, str] | None:
    path = _state_path(settings)
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return {"kind": str(state["kind"]), "path": str(state["path"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DemoError(f"{path} cannot be read ({error!r}); delete it and start the demo again") from error


def _wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while (response := client.get("/readyz")).status_code != httpx.codes.OK:
        if time.monotonic() > deadline:
            raise DemoError(f"the server is not ready after {_READY_SECONDS} s: {response.text}")
        time.sleep(0.1)


def _search(client: httpx.Client, path: Path) -> list[str]:
    with path.open("rb") as file:
        response = client.post("/search", params={"k": 10}, files={"image": file})
    if response.status_code != httpx.codes.OK:
        raise DemoError(f"the search with {path} failed: {response.text}")
    return [hit["product_id"] for hit in response.json()["hits"]]


@contextmanager
def step(announce: Announce, title: str) -> Iterator[None]:
    """Announce the step and its duration when it has succeeded."""
    start = time.perf_counter()
    yield
    announce(f"[{time.perf_counter() - start:5.1f} s] {title}")
