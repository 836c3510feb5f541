"""Several threads that run one network in bulk work."""

import numpy as np
import pytest

from embedding.bulk import BulkOptions, embed_images
from embedding.embedder import Embedder
from embedding.runtimes.choice import create_network
from embedding.runtimes.onnx_network import OnnxNetwork
from embedding.runtimes.options import NetworkOptions
from tests.images import encode, scene


@pytest.mark.parametrize(
    ("num_threads", "concurrent_runs", "threads_each"), [(1, 1, 1), (2, 2, 1), (8, 8, 1), (12, 6, 2), (25, 6, 4)]
)
def test_runs_in_bulk_work_share_the_threads(tiny_network, exports, num_threads, concurrent_runs, threads_each):
    options = NetworkOptions("cpu", runtime="onnxruntime", cache_dir=exports, num_threads=num_threads)

    alone, bulk = create_network(tiny_network, options), create_network(tiny_network, options.for_bulk())

    assert isinstance(alone, OnnxNetwork)
    assert isinstance(bulk, OnnxNetwork)
    assert (alone.concurrent_runs, alone.num_threads) == (1, num_threads)
    assert (bulk.concurrent_runs, bulk.num_threads) == (concurrent_runs, threads_each)


def test_torch_on_a_cpu_runs_in_the_thread_that_consumes(tiny_network):
    assert create_network(tiny_network, NetworkOptions("cpu").for_bulk()).concurrent_runs == 0


def test_runs_at_the_same_time_give_the_embeddings_of_torch(tiny_network, exports):
    options = NetworkOptions("cpu", runtime="onnxruntime", cache_dir=exports, num_threads=3).for_bulk()
    embedder = Embedder(tiny_network.model, tiny_network.preprocessing, options)
    torch = Embedder(tiny_network.model, tiny_network.preprocessing, NetworkOptions("cpu"))
    images = [encode(scene(seed, (60, 50))) for seed in range(30)]
    assert (embedder.concurrent_runs, torch.concurrent_runs) == (3, 0)

    def embedded(by: Embedder) -> np.ndarray:
        batches = embed_images(range(30), images.__getitem__, by, BulkOptions(batch_size=4, num_decoders=2))
        return np.concatenate([batch.embeddings for batch in batches])

    np.testing.assert_allclose(embedded(embedder), embedded(torch), atol=1e-5)
