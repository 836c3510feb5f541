"""The program that exports a network to ONNX; `embedding.runtimes.exported` runs it in a process of its own.

    python -m embedding.runtimes.exporting FOLDER

FOLDER contains network.json (architecture, preprocessing, input) and weights.safetensors; the program adds
network.onnx. The exported network is compared with torch on this machine, and refused beyond a difference of 1e-5.

A process of its own: the exporter is a large Python program that would keep the interpreter lock from searches for
seconds, and its modules stay in memory; and torch must not run a network in a second thread
(service/serving/inference.py).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from embedding.model import Architecture, EmbeddingModel, create_model
from embedding.preprocessing import Preprocessing
from embedding.runtimes.network import Network
from embedding.runtimes.onnx_network import INPUT_NAME, OUTPUT_NAME, OnnxNetwork
from embedding.runtimes.options import NetworkInput

FACTS_NAME, WEIGHTS_NAME, NETWORK_NAME = "network.json", "weights.safetensors", "network.onnx"
# One that all supported versions of the exporter write and onnxruntime has read since 1.14.
OPSET = 18
MAX_DIFFERENCE = 1e-5


class PixelNetwork(nn.Module):
    """A model that takes uint8 pixels [N, H, W, 3]: the normalisation is part of the network."""

    def __init__(self, model: EmbeddingModel, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing

    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """Return the embeddings [N, D] of prepared images."""
        embeddings: Tensor = self.model(self.preprocessing.normalise(pixels_NHWC))
        return embeddings


def export(folder: Path) -> None:
    """Export the network that `folder` describes; raises ArithmeticError if the result differs from torch."""
    facts = json.loads((folder / FACTS_NAME).read_text())
    takes: NetworkInput = facts["takes"]
    preprocessing = Preprocessing.from_json(facts["preprocessing"])
    model, _ = create_model(Architecture.from_json(facts["architecture"]), pretrained=False)
    model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    network: nn.Module = PixelNetwork(model, preprocessing) if takes == "pixels" else model
    network.eval()
    batch = example_batch(preprocessing, takes)
    program = torch.onnx.export(
        network,
        (batch,),
        dynamo=True,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: "images"},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    program.save(folder / NETWORK_NAME, external_data=False)
    _compare(network, OnnxNetwork(folder / NETWORK_NAME), batch)


def example_batch(preprocessing: Preprocessing, takes: NetworkInput) -> Tensor:
    """Return three images that differ in content: noise, a gradient, one colour."""
    size = preprocessing.image_size
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    images = np.empty((3, size, size, 3), np.uint8)
    images[0] = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    images[1] = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], 255 - ramp[None]), axis=2)
    images[2] = (200, 60, 40)
    pixels = torch.from_numpy(images)
    return pixels if takes == "pixels" else preprocessing.normalise(pixels)


@torch.inference_mode()
def _compare(network: nn.Module, exported: Network, batch: Tensor) -> None:
    """Compare batches of one and of several images."""
    for part in (batch, batch[:1]):
        difference = float(np.abs(network(part).numpy() - exported.run(part.contiguous().numpy())).max())
        # Negated, so that NaN is refused too.
        if not difference <= MAX_DIFFERENCE:
            raise ArithmeticError(
                f"the exported network differs from torch by {difference:.2g}; {MAX_DIFFERENCE:g} is allowed"
            )


if __name__ == "__main__":
    export(Path(sys.argv[1]))
