"""Which runtime a command of training runs frozen networks with, given how many images it has for them."""

import logging
from dataclasses import replace

from embedding.embedder import space_id_of
from embedding.model import EmbeddingModel
from embedding.preprocessing import Preprocessing
from embedding.runtimes.choice import create_network
from embedding.runtimes.exported import NetworkToExport
from embedding.runtimes.onnx_network import OnnxNetwork
from embedding.runtimes.options import NetworkOptions
from training.data.pooling import ThreadedNetwork

log = logging.getLogger(__name__)

# An export for ONNX Runtime takes about ten seconds, in which it would save as much on this number of images.
_LEAST_IMAGES = 1000


def options_for(options: NetworkOptions, num_images: int) -> NetworkOptions:
    """Return the options for running a network on `num_images`: "auto" means torch where an export takes longer."""
    return replace(options, runtime="torch") if options.runtime == "auto" and num_images < _LEAST_IMAGES else options


def threaded_network(
    model: EmbeddingModel, preprocessing: Preprocessing, options: NetworkOptions, num_images: int
) -> ThreadedNetwork | None:
    """Return a network of normalised images that threads share, or None if torch is to run the model.

    Raises UnsupportedRuntime, UnsupportedDevice, and ExportFailed if the runtime is onnxruntime.
    """
    options = options_for(replace(options, num_threads=1), num_images)
    if options.runtime == "torch":
        return None
    wanted = NetworkToExport(model, preprocessing, space_id_of(model, preprocessing), takes="normalised")
    network = create_network(wanted, options)
    log.info("%s computes the features of %d views: %s", network.runtime, num_images, network.runtime_reason)
    return network if isinstance(network, OnnxNetwork) else None
