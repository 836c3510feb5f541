"""LitServe: decoding, batched prediction and the search in its worker process.

PEER_...=... python -m benchmarks.peers.servers.litserve_server
"""

import litserve  # type: ignore[import-not-found]  # in its own environment only
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from benchmarks.peers.servers.networks import Network, load_network
from benchmarks.peers.servers.options import ServerOptions
from benchmarks.peers.servers.preparation import Preparation
from benchmarks.peers.servers.ranking import Hit, Ranking

_MAX_BATCH_SIZE = 8
# How long a batch waits for more requests: a fraction of one forward pass.
_BATCH_SECONDS = 0.002


class SearchAPI(litserve.LitAPI):  # type: ignore[misc]
    """The steps of a search as LitServe names them."""

    _network: Network

    def setup(self, device: object) -> None:  # noqa: ARG002  # LitServe's signature
        """Load the network once per worker process."""
        options = ServerOptions.from_environment()
        self._k = options.k
        self._network = load_network(options)
        self._preparation = Preparation.read(options.files)
        self._ranking = Ranking.read(options.files)

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        """Return the pixels of the uploaded image."""
        return self._preparation.to_pixels(request["image"].file.read())

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Stack the pixels of several requests."""
        return np.stack(inputs)

    def predict(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch."""
        return self._network.embed(pixels_NHWC)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return one embedding per request."""
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, list[Hit]]:
        """Search the catalogue."""
        return {"hits": self._ranking.best(output, self._k)}


def main() -> None:
    options = ServerOptions.from_environment()
    api = SearchAPI(api_path="/search", max_batch_size=_MAX_BATCH_SIZE, batch_timeout=_BATCH_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, timeout=120)
    server.run(
        host="127.0.0.1", port=options.port, num_api_servers=1, generate_client_file=False, log_level="warning",
        access_log=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
