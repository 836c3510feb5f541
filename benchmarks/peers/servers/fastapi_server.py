"""Plain FastAPI: a synchronous endpoint, which Starlette runs in its thread pool.

PEER_...=... python -m benchmarks.peers.servers.fastapi_server
"""

from typing import Annotated

import uvicorn
from fastapi import FastAPI, File

from benchmarks.peers.servers.networks import load_network
from benchmarks.peers.servers.options import ServerOptions
from benchmarks.peers.servers.preparation import Preparation
from benchmarks.peers.servers.ranking import Hit, Ranking


def create_app() -> FastAPI:
    """Build the application; each worker process has its own network."""
    options = ServerOptions.from_environment()
    network = load_network(options)
    preparation = Preparation.read(options.files)
    ranking = Ranking.read(options.files)
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/search")
    def search(image: Annotated[bytes, File()], k: int = options.k) -> dict[str, list[Hit]]:
        pixels = preparation.to_pixels(image)
        return {"hits": ranking.best(network.embed(pixels[None])[0], k)}

    return app


def main() -> None:
    options = ServerOptions.from_environment()
    # A log line per request would cost time that other servers do not spend.
    uvicorn.run(
        "benchmarks.peers.servers.fastapi_server:create_app",
        factory=True,
        host="127.0.0.1",
        port=options.port,
        workers=options.workers,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
