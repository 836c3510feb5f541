"""The load generator, a process of its own: threads with one connection each that search without pause.

    python -m benchmarks.peers.load --port PORT --field image --images FOLDER --clients 16 --requests 200

Prints one JSON object: durations in seconds, the wall time, and the CPU time of the generator. It imports the standard
library only, so that it starts fast and takes little CPU time from the servers.
"""

import argparse
import contextlib
import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

_BOUNDARY = "benchmark-boundary-7d1f"
_HEADERS = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Accept": "application/json"}
_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the generator measured."""

    durations: list[float]
    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/search")
    parser.add_argument("--field", required=True, help="name of the multipart field")
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files, sent in order of name")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    arguments = parser.parse_args()
    bodies = [multipart_body(arguments.field, image) for image in read_images(arguments.images)]
    start, cpu_start = time.perf_counter(), time.process_time()
    durations = run_clients(arguments.port, arguments.path, bodies, arguments.clients, arguments.requests)
    load = {
        "durations": durations,
        "wall_seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
    }
    json.dump(load, sys.stdout)


def read_images(folder: Path) -> list[bytes]:
    """Return the bytes of the JPEG files of a folder, in order of name."""
    return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]


def multipart_body(field: str, image_bytes: bytes) -> bytes:
    """Return a form with one file."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="image.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + image_bytes + f"\r\n--{_BOUNDARY}--\r\n".encode()


def run_clients(port: int, path: str, bodies: list[bytes], clients: int, requests: int) -> list[float]:
    """Send `requests` requests from `clients` threads; return the duration of each in seconds."""

    def client(number: int) -> list[float]:
        durations = []
        with contextlib.closing(connect(port)) as connection:
            for n in range(number, requests, clients):
                start = time.perf_counter()
                post(connection, path, bodies[n % len(bodies)])
                durations.append(time.perf_counter() - start)
        return durations

    with ThreadPoolExecutor(clients) as pool:
        return [seconds for part in pool.map(client, range(clients)) for seconds in part]


def connect(port: int) -> http.client.HTTPConnection:
    """Return a connection that opens at its first request, and again where the server has closed it."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> object:
    """Send one form and return the JSON of the response; raises RuntimeError for any status but 200."""
    connection.request("POST", path, body, _HEADERS)
    response = connection.getresponse()
    content = response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"POST {path} responded {response.status}: {content[:500].decode(errors='replace')}")
    return cast(object, json.loads(content))


if __name__ == "__main__":
    main()
