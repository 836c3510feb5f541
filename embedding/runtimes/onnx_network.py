"""Networks run by ONNX Runtime, on a CPU. Only this module and the exporter import it, and only when they need it."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedding.errors import UnsupportedRuntime

# What the exporter needs besides torch.
_EXPORTING = ("onnx", "onnxscript")
REMEDY = "pip install 'akin[cpu]'"
_SPIN_MICROSECONDS = "200"
INPUT_NAME, OUTPUT_NAME = "images", "embeddings"


def missing_packages() -> list[str]:
    """Return the packages that running and exporting networks for ONNX Runtime needs and this environment lacks."""
    return [name for name in ("onnxruntime", *_EXPORTING) if find_spec(name) is None]


def onnxruntime_version() -> str:
    """Return the version of ONNX Runtime; raises UnsupportedRuntime if it cannot be imported."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UnsupportedRuntime(f"onnxruntime cannot be used ({error}); {REMEDY}, or use the runtime torch") from error
    return str(onnxruntime.__version__)


class OnnxNetwork:
    """An exported network; several threads may run it.

    One image is computed by all threads together. The images of a batch are divided among the threads, each of which
    runs its own part, since threads then need not wait for each other at every layer.
    """

    # A run of more images only takes longer, since each thread then has several in turn.
    batch_size = 16

    def __init__(self, path: Path, num_threads: int = 0, concurrent_runs: int = 1, *, reason: str = "") -> None:
        """Raises UnsupportedRuntime if this version of ONNX Runtime cannot read the file."""
        self.device = torch.device("cpu")
        self.runtime = f"onnxruntime {onnxruntime_version()}"
        self.runtime_reason = reason
        all_threads = num_threads or torch.get_num_threads()
        self.num_threads = -(-all_threads // concurrent_runs)  # of one run
        self.concurrent_runs = all_threads // self.num_threads
        self._session = _open_session(path, self.num_threads)
        self._divided = self._session
        if self.num_threads > 1:
            self._divided = _open_session(path, 1)
            self._others = ThreadPoolExecutor(self.num_threads - 1, "onnx")

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the embeddings [N, D] of a batch."""
        num_parts = min(len(batch), self.num_threads)
        if num_parts == 1:
            return _run(self._session, batch)
        first, *others = np.array_split(batch, num_parts)
        running = [self._others.submit(_run, self._divided, part) for part in others]
        return np.concatenate([_run(self._divided, first), *(part.result() for part in running)])


def _run(session: Any, batch: NDArray[Any]) -> NDArray[np.float32]:  # onnxruntime has no types
    outputs: list[NDArray[np.float32]] = session.run([OUTPUT_NAME], {INPUT_NAME: batch})
    return outputs[0]


def _open_session(path: Path, num_threads: int) -> Any:  # onnxruntime has no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors, which also raise
    # Between two layers, threads wait for each other by spinning, since waking one takes longer than most layers. Not
    # longer than that: they would take the cores from threads that decode images.
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its C++ part
        raise UnsupportedRuntime(
            f"onnxruntime {onnxruntime.__version__} cannot read {path.name}: {str(error).splitlines()[0]}"
        ) from error
