"""Networks exported to ONNX: derived files, kept by embedding space, exporter and opset."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from embedding.artifact import new_artifact, verify_artifact
from embedding.errors import ExportFailed, InvalidArtifact
from embedding.model import EmbeddingModel
from embedding.preprocessing import Preprocessing
from embedding.runtimes.exporting import FACTS_NAME, NETWORK_NAME, OPSET, WEIGHTS_NAME
from embedding.runtimes.options import NetworkInput

log = logging.getLogger(__name__)

KIND = "akin-exported-network/1"
# A network of a retrain is exported once more into its release; the last few are enough.
_MAX_KEPT = 8


@dataclass(frozen=True, slots=True)
class NetworkToExport:
    """A model of an embedding space, and the form of the images that it is to take."""

    model: EmbeddingModel
    preprocessing: Preprocessing
    space_id: str
    takes: NetworkInput = "pixels"

    @property
    def key(self) -> str:
        """Name of the exported network in a cache."""
        return f"{self.space_id}-{self.takes}-torch{torch.__version__}-opset{OPSET}"

    def facts(self) -> dict[str, object]:
        """Return the facts of the manifest."""
        return {"space_id": self.space_id, "takes": self.takes, "exporter": exporter(), "opset": OPSET}


def exporter() -> str:
    """Return the name and version of the exporter."""
    return f"torch {torch.__version__}"


@contextmanager
def exported_network(wanted: NetworkToExport, cache_dir: Path | None) -> Iterator[Path]:
    """Yield the file of the exported network, from the cache if it is there; raises ExportFailed.

    If the cache cannot be written to, the file is temporary, and a warning is logged.
    """
    if cache_dir is not None and (cached := _cached(cache_dir / wanted.key)):
        yield cached
        return
    with tempfile.TemporaryDirectory(prefix="akin-export-") as folder:
        file = _export(wanted, Path(folder))
        if cache_dir is not None:
            try:
                file = _keep(file, wanted, cache_dir)
            except OSError as error:
                log.warning("the exported network cannot be kept in %s, so each start exports it: %s", cache_dir, error)
        yield file


def _cached(directory: Path) -> Path | None:
    if not directory.is_dir():
        return None
    try:
        verify_artifact(directory, KIND)
    except (InvalidArtifact, OSError) as error:
        log.warning("the exported network %s is damaged and is exported again: %s", directory.name, error)
        shutil.rmtree(directory, ignore_errors=True)
        return None
    try:
        os.utime(directory)
    except OSError:
        log.debug("the time of use of %s cannot be set", directory)
    return directory / NETWORK_NAME


def _export(wanted: NetworkToExport, folder: Path) -> Path:
    """Write the exported network into `folder`; takes about ten seconds."""
    facts = {
        "architecture": wanted.model.architecture.to_json(),
        "preprocessing": wanted.preprocessing.to_json(),
        "takes": wanted.takes,
    }
    (folder / FACTS_NAME).write_text(json.dumps(facts))
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in wanted.model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_NAME)
    start = time.monotonic()
    log.info("exporting the network of space %s for ONNX Runtime", wanted.space_id)
    done = subprocess.run(  # noqa: S603  # this interpreter, and a folder of our own
        [sys.executable, "-m", "embedding.runtimes.exporting", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        log.debug("the exporter failed:\n%s", done.stderr)
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ExportFailed(f"the network {wanted.model.architecture.backbone} cannot be exported to ONNX: {last}")
    log.info("exported the network of space %s in %.1f s", wanted.space_id, time.monotonic() - start)
    return folder / NETWORK_NAME


def _keep(file: Path, wanted: NetworkToExport, cache_dir: Path) -> Path:
    directory = cache_dir / wanted.key
    try:
        with new_artifact(directory, KIND, wanted.facts()) as draft:
            shutil.copyfile(file, draft.path / NETWORK_NAME)
    except OSError:
        # Another process may have exported the same network in the meantime.
        if not directory.is_dir():
            raise
    _remove_least_recent(cache_dir)
    return directory / NETWORK_NAME


def _remove_least_recent(cache_dir: Path) -> None:
    """Remove all but the networks used last; one in use by another process has been read into memory."""
    entries = sorted((path for path in cache_dir.iterdir() if not path.name.startswith(".")), key=_time_of_use)
    for path in entries[:-_MAX_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _time_of_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed by another process
        return 0.0
