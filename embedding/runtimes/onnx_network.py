"""Networks run by ONNX Runtime, on a CPU. Only this module and the exporter import it, and only when they need it."""

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
    """An exported network; several threads may run it."""

    # The cost of an image falls up to about this size and then stays (benchmarks/batch_size.py).
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

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the embeddings [N, D] of a batch."""
        outputs: list[NDArray[np.float32]] = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        return outputs[0]


def _open_session(path: Path, num_threads: int) -> Any:  # onnxruntime has no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors, which also raise
    # Threads that spin while they wait for work would take the cores from those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its C++ part
        raise UnsupportedRuntime(
            f"onnxruntime {onnxruntime.__version__} cannot read {path.name}: {str(error).splitlines()[0]}"
        ) from error
