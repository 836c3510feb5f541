"""The servers that are compared, and the command that starts each."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import installed_versions, make_environment, same_version
from benchmarks.peers.processes import Server, free_port
from benchmarks.peers.servers.options import Runtime, ServerOptions

ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 180
AKIN = "Akin"


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's server: its environment, and how it is addressed.

    Each framework has one environment for its runtimes. `module` is a module of `benchmarks.peers.servers`; `field` is
    the multipart field of the image; `versions` are the distributions whose versions are printed.
    """

    name: str
    key: str
    environment: str
    runtime: Runtime
    module: str
    requirements: tuple[str, ...]
    versions: tuple[str, ...]
    field: str = "image"
    health_path: str = "/health"


_FASTAPI = ("fastapi", "uvicorn[standard]", "python-multipart")
_TORCH, _ONNXRUNTIME = same_version("torch"), same_version("onnxruntime")
_LITSERVE = ("litserve>=0.2.16", "python-multipart", _TORCH, _ONNXRUNTIME)
_BENTOML = ("bentoml>=1.4,<1.5", _TORCH, _ONNXRUNTIME)

PEERS = (
    Peer(
        "FastAPI + torch", "fastapi-torch", "fastapi-torch", "torch", "fastapi_server",
        (*_FASTAPI, _TORCH), ("fastapi", "uvicorn", "torch"),
    ),
    Peer(
        "FastAPI + ONNX Runtime", "fastapi-onnxruntime", "fastapi-onnxruntime", "onnxruntime", "fastapi_server",
        (*_FASTAPI, _ONNXRUNTIME), ("fastapi", "uvicorn", "onnxruntime"),
    ),
    Peer(
        "LitServe + torch", "litserve-torch", "litserve", "torch", "litserve_server",
        _LITSERVE, ("litserve", "torch"),
    ),
    Peer(
        "LitServe + ONNX Runtime", "litserve-onnxruntime", "litserve", "onnxruntime", "litserve_server",
        _LITSERVE, ("litserve", "onnxruntime"),
    ),
    Peer(
        "BentoML + torch", "bentoml-torch", "bentoml", "torch", "bentoml_server",
        _BENTOML, ("bentoml", "torch"), field="images", health_path="/readyz",
    ),
    Peer(
        "BentoML + ONNX Runtime", "bentoml-onnxruntime", "bentoml", "onnxruntime", "bentoml_server",
        _BENTOML, ("bentoml", "onnxruntime"), field="images", health_path="/readyz",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that is ready, and the multipart field in which it takes the image."""

    name: str
    server: Server
    field: str
    versions: str


def prepare_environments(peers: list[Peer], cache: Path, torch_index_url: str | None) -> dict[str, Path]:
    """Return the interpreter of each peer's environment by the peer's key."""
    return {
        peer.key: make_environment(cache / "environments" / peer.environment, peer.requirements, torch_index_url)
        for peer in peers
    }


def start_akin(home: Path, logs: Path, running: list[Server]) -> Contender:
    """Start `akin serve` on a home; the time limit of a search is as high as those of the peers, otherwise defaults."""
    port = free_port()
    environment = {
        **os.environ,
        "AKIN_HOME": str(home),
        "AKIN_LOG_LEVEL": "warning",
        "AKIN_SEARCH_TIMEOUT_SECONDS": "120",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "service.cli.main", "serve", "--port", str(port)]
    server = Server.start(AKIN, command, environment, port, logs / "akin.log")
    running.append(server)
    server.wait_until_ready("/readyz", _READY_SECONDS)
    return Contender(AKIN, server, "image", "")


def start_peer(
    peer: Peer, python: Path, files: Path, cores: int, workers: int, logs: Path, running: list[Server]
) -> Contender:
    """Start a peer's server; the cores are divided among the processes that run its network."""
    port = free_port()
    options = ServerOptions(files, peer.runtime, max(1, cores // workers), workers, port)
    module = f"benchmarks.peers.servers.{peer.module}"
    command = [str(python), "-m", module]
    if peer.module == "bentoml_server":
        command = [
            str(python),
            "-m",
            "bentoml",
            "serve",
            f"{module}:Search",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
    environment = {
        **os.environ,
        **options.to_environment(),
        "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(logs / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    server = Server.start(peer.name, command, environment, port, logs / f"{peer.key}.log")
    running.append(server)
    server.wait_until_ready(peer.health_path, _READY_SECONDS)
    found = installed_versions(python, peer.versions)
    return Contender(peer.name, server, peer.field, ", ".join(f"{name} {value}" for name, value in found.items()))
