"""Send searches from several clients, as a process of its own whose CPU seconds can be subtracted.

    python benchmarks/search_load.py http://127.0.0.1:8000 --clients 16 --total 320 IMAGE...

Each client has a thread and a connection. Requests are encoded beforehand and sent through plain sockets, since an HTTP
library would need a noticeable part of the cores that the server shares. Prints JSON: the seconds of each search, those
of all, and the CPU seconds of this process.
"""

import argparse
import json
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

K = 10
_BOUNDARY = b"akin-benchmark"


class SearchClient:
    """A connection to a server; send one search at a time."""

    def __init__(self, address: str) -> None:
        url = urlsplit(address)
        self._connection = socket.create_connection((url.hostname, url.port), timeout=60)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def search(self, request: bytes) -> bytes:
        """Send an encoded search and return the body of the response; raises SystemExit unless it is a 200."""
        self._connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise SystemExit(f"the server answered: {received.decode(errors='replace')[:500]}")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(lengths[0]):
            body += self._receive()
        return body

    def _receive(self) -> bytes:
        chunk = self._connection.recv(2**16)
        if not chunk:
            raise SystemExit("the server closed the connection")
        return chunk


def encoded_search(image_bytes: bytes) -> bytes:
    """Return the bytes of a search with a multipart form."""
    head = b'Content-Disposition: form-data; name="image"; filename="image.jpg"\r\nContent-Type: image/jpeg'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (_BOUNDARY, head, image_bytes, _BOUNDARY)
    return (
        b"POST /search?k=%d HTTP/1.1\r\nHost: akin\r\nContent-Type: multipart/form-data; boundary=%b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (K, _BOUNDARY, len(body), body)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--total", type=int, default=320)
    arguments = parser.parse_args()
    requests = [encoded_search(path.read_bytes()) for path in arguments.images]

    def client(number: int) -> list[float]:
        seconds = []
        with SearchClient(arguments.address) as connection:
            for n in range(number, arguments.total, arguments.clients):
                start = time.perf_counter()
                connection.search(requests[n % len(requests)])
                seconds.append(time.perf_counter() - start)
        return seconds

    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with ThreadPoolExecutor(arguments.clients) as pool:
        seconds = [one for part in pool.map(client, range(arguments.clients)) for one in part]
    wall_seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
