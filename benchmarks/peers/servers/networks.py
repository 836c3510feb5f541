"""The same network in two runtimes: uint8 pixels [N, H, W, 3] to unit embeddings [N, D].

Each runtime is imported only where it is used, since no environment needs both.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.servers.options import ServerOptions
from benchmarks.peers.servers.preparation import PREPROCESSING_NAME

DEFINITION_NAME = "efficientnet_lite.py"
WEIGHTS_NAME = "backbone.pt"
ONNX_NAME = "network.onnx"


class Network(Protocol):
    """A network that may be called from several threads."""

    def embed(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the unit embeddings of prepared images."""


def load_network(options: ServerOptions) -> Network:
    """Load the network in the runtime that the options name."""
    if options.runtime == "torch":
        return TorchNetwork(options.files, options.threads)
    return ONNXNetwork(options.files, options.threads)


class TorchNetwork:
    """Eager torch in evaluation and inference mode, with channels last in memory."""

    def __init__(self, files: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        backbone = _definition(files / DEFINITION_NAME).EfficientNetLite0()
        backbone.load_state_dict(torch.load(files / WEIGHTS_NAME, weights_only=True))
        self._backbone = backbone.eval().to(memory_format=torch.channels_last)
        values = json.loads((files / PREPROCESSING_NAME).read_text())
        std = torch.tensor(values["std"])
        self._scale = 1 / (255 * std)
        self._offset = -torch.tensor(values["mean"]) / std

    def embed(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise, run the backbone, average over positions and scale to unit length."""
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            # Copied, since torch warns about read-only arrays such as those from Pillow.
            pixels = torch.from_numpy(np.array(pixels_NHWC))
            images_NCHW = torch.addcmul(self._offset, pixels.float(), self._scale).permute(0, 3, 1, 2)
            pooled_NC = self._backbone(images_NCHW).mean(dim=(2, 3))
            embeddings: NDArray[np.float32] = F.normalize(pooled_NC, dim=1).numpy()
        return embeddings


class ONNXNetwork:
    """ONNX Runtime on the CPU; the file contains normalisation, pooling and the scaling to unit length."""

    def __init__(self, files: Path, threads: int) -> None:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(files / ONNX_NAME), options, providers=["CPUExecutionProvider"]
        )

    def embed(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the exported network."""
        embeddings: NDArray[np.float32] = self._session.run(None, {"pixels": pixels_NHWC})[0]
        return embeddings


def _definition(path: Path) -> Any:  # a module
    """Import the network's definition, which the driver copied beside the weights."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
