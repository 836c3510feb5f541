"""Akin's /search beside the same network and the same exact search in LitServe, BentoML and plain FastAPI.

    python -m benchmarks.peers [--peers KEY...] [--images FOLDER] [--rounds 5] [--cache build/peers] [--json FILE]

Each peer has a virtual environment of its own below the cache folder, which pip fills at the first run. Every server
receives a JPEG as multipart, decodes it, runs EfficientNet-Lite0 at 224 pixels on all cores, and searches the same
embeddings. All must find the same products. They are then measured in interleaved rounds, by a load generator in a
process of its own; servers that are not measured are suspended. Needs Linux.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.peers.catalogue import publish_release, write_files, write_queries
from benchmarks.peers.comparison import measure, require_same_hits
from benchmarks.peers.contenders import PEERS, ROOT, Contender, prepare_environments, start_akin, start_peer
from benchmarks.peers.processes import stopped_at_the_end
from benchmarks.peers.report import format_table, generator_cpu_share, rows_of
from benchmarks.table import format_rows, write_rows
from service.installation.settings import Settings


def main() -> None:
    arguments = parse_arguments()
    # The blocks that stop the servers also end on SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    peers = [peer for peer in PEERS if not arguments.peers or peer.key in arguments.peers]
    cores = len(os.sched_getaffinity(0))
    pythons = prepare_environments(peers, arguments.cache, arguments.torch_index_url)
    with tempfile.TemporaryDirectory(prefix="akin-peers-") as name, stopped_at_the_end() as running:
        folder = Path(name)
        queries, files, home = folder / "queries", folder / "files", folder / "home"
        write_queries(queries, arguments.num_queries, arguments.images)
        write_files(files, queries, arguments.num_products)
        publish_release(Settings(home=home, log_level="warning"), files)
        contenders: list[Contender] = [start_akin(home, folder, running)]
        for peer in peers:
            contenders.append(start_peer(peer, pythons[peer.key], files, cores, arguments.workers, folder, running))
        require_same_hits(contenders, queries)
        measurements = measure(
            contenders, queries, rounds=arguments.rounds,
            alone_requests=arguments.alone_requests, busy_requests=arguments.busy_requests,
        )  # fmt: skip
    print(f"{cores} cores, Python {platform.python_version()}, processes per network: {arguments.workers}")
    for measurement in measurements[1:]:
        print(f"{measurement.name}: {measurement.versions}")
    print(f"\n{format_table(measurements)}\n\n{format_rows(rows_of(measurements))}")
    print(f"\nCPU time of the load generator / that of the servers: {generator_cpu_share(measurements):.3f}")
    if arguments.json:
        write_rows(arguments.json, rows_of(measurements))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = [peer.key for peer in PEERS]
    parser.add_argument("--peers", nargs="+", choices=keys, metavar="KEY", help=f"of {', '.join(keys)}; default: all")
    parser.add_argument("--images", type=Path, help="folder with JPEG queries; default: drawn photos of 800 × 600")
    parser.add_argument("--num-queries", type=int, default=16)
    parser.add_argument("--num-products", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone-requests", type=int, default=40, help="requests per round with 1 client")
    parser.add_argument("--busy-requests", type=int, default=160, help="requests per round with 16 clients")
    parser.add_argument("--workers", type=int, default=1, help="processes per peer, which divide the cores")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "peers", help="folder of the environments")
    parser.add_argument("--torch-index-url", help="index from which pip takes torch, for example one of CPU builds")
    parser.add_argument("--json", type=Path, help="also write the ratios to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
