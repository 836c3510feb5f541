"""Networks run by torch, on a CPU or with CUDA."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from embedding.preprocessing import Preprocessing
from embedding.runtimes.options import NetworkInput, Precision

# On a CPU the activations of larger batches do not fit in the cache: a batch of 32 takes more than twice as long per
# image as a batch of 4 (benchmarks/batch_size.py). A GPU needs large batches.
BATCH_SIZES = {"cpu": 4, "cuda": 64}


class TorchNetwork:
    """A model of normalised images on a torch device, in evaluation mode."""

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        device: torch.device,
        precision: Precision = "float32",
        *,
        takes: NetworkInput = "pixels",
        reason: str = "",
    ) -> None:
        self.device = device
        self.runtime = f"torch {torch.__version__}"
        self.runtime_reason = reason
        self.batch_size = BATCH_SIZES[device.type]
        # On a CPU, the thread that loaded the network has run it, and a second one would make both slower
        # (service/serving/inference.py).
        self.concurrent_runs = 0 if device.type == "cpu" else 1
        self._precision = precision
        self._normalise = preprocessing.normalise if takes == "pixels" else None
        # Convolutions on a CPU are 1.7 times as fast with channels_last as with the default layout.
        self._model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the embeddings [N, D] of a batch."""
        # Copied, since torch warns about read-only arrays such as those from Pillow.
        inputs = torch.from_numpy(np.array(batch)).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            outputs = self._model(inputs if self._normalise is None else self._normalise(inputs))
        embeddings: NDArray[np.float32] = outputs.float().cpu().numpy()
        return embeddings
