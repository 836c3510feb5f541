"""Servers that are full, gone, frozen or drop connections: which requests are retried, and which never are."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from PIL import Image

from benchmarks.gateway import KEY, Gateway, Replica, ask, free_port, upstream_file
from benchmarks.rolling_restart import Figures, Query, search_until
from tests.gateway.conftest import ADMIN, MAX_SEARCHES, PREFIX
from tests.gateway.raw_http import BrokenServer
from tests.images import encode
from tests.service.conftest import wait_for


def search(gateway: Gateway, image: bytes, request_id: str = "", timeout: float = 60) -> httpx.Response:
    headers = {"X-Request-ID": request_id} if request_id else {}
    address = f"{gateway.address}{PREFIX}/search"
    return ask("POST", address, files={"image": image}, headers=headers, timeout=timeout)


def is_full(replica: Replica) -> bool:
    return ask("POST", f"{replica.address}/search", content=b"x").status_code == 503


@contextlib.contextmanager
def filled(*full: Replica) -> Iterator[None]:
    """Occupy all slots of servers with searches of images that take long to decode, until the block ends."""
    image, is_over = encode(Image.new("L", (4000, 4000))), threading.Event()

    def keep_searching(replica: Replica) -> None:
        while not is_over.is_set():
            answer = ask("POST", f"{replica.address}/search", files={"image": image}, timeout=60)
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 503:
                is_over.wait(0.02)

    # More clients than slots: the next one waits for each slot that becomes free.
    num_clients = MAX_SEARCHES + 8
    with ThreadPoolExecutor(num_clients * len(full)) as clients:
        searching = [clients.submit(keep_searching, replica) for replica in full for _ in range(num_clients)]
        try:
            for replica in full:
                wait_for(partial(is_full, replica), 60)
            yield
        finally:
            is_over.set()
        for search in searching:
            search.result()


def test_a_search_that_a_full_server_refuses_is_retried_on_the_other(gateway, replicas, image):
    with filled(replicas[0]):
        answers = [search(gateway, image) for _ in range(8)]

    assert [answer.status_code for answer in answers] == [200] * 8
    tries = [gateway.line_of(answer.headers["x-request-id"])["upstream_status"] for answer in answers]
    assert set(tries) == {"200", "503, 200"}


def test_servers_that_are_starting_fail_no_search(gateways, replicas, image):
    """A name server lists new replicas before they listen: here three of four servers refuse connections."""
    gateway = gateways(upstream_file([free_port(), free_port(), free_port(), replicas[0].port]))

    answers = [search(gateway, image) for _ in range(12)]

    assert [answer.status_code for answer in answers] == [200] * 12
    tries = {gateway.line_of(answer.headers["x-request-id"])["upstream_status"] for answer in answers}
    assert "502, 502, 502, 200" in tries


def test_when_all_servers_are_full_one_refusal_reaches_the_client(gateway, replicas, image):
    with filled(*replicas):
        # A search may meet a slot that has just become free.
        answer = next(answer for _ in range(1000) if (answer := search(gateway, image)).status_code != 200)

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert len(answer.headers.get_list("retry-after")) == 1
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert gateway.line_of(answer.headers["x-request-id"])["upstream_status"] == "503, 503"


def test_a_dropped_search_is_retried_on_another_server(gateways, replicas, image):
    with BrokenServer() as broken:
        gateway = gateways(upstream_file([broken.port], backup_ports=[replicas[0].port]))

        answer = search(gateway, image, "dropped")

    assert answer.status_code == 200, answer.text
    assert len(broken.requests) == 1
    assert gateway.line_of("dropped")["upstream_status"] == "502, 200"
    # Both servers received the whole request, headers and body.
    assert image in broken.requests[0]
    assert b"X-Request-ID: dropped" in broken.requests[0]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/admin/keys", b'{"name": "once", "scopes": ["search"]}'),
        ("/v1/admin/releases", b""),
        ("/v1/admin/releases:rollback", b"{}"),
        ("/v1/admin/catalogue", b"x" * 100_000),
        ("/admin/retrain", b"{}"),
    ],
)
def test_a_dropped_change_is_never_retried(gateways, replicas, path, content):
    """Whether the change was made is unknown, so the client gets an error and checks."""
    with BrokenServer() as broken:
        gateway = gateways(upstream_file([broken.port], backup_ports=[replicas[0].port]))
        headers = {**ADMIN, "Content-Type": "application/json", "X-Request-ID": f"once-{len(path)}"}

        answer = ask("POST", gateway.address + PREFIX + path, content=content, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (502, "bad-gateway")
    assert len(broken.requests) == 1
    assert gateway.line_of(headers["X-Request-ID"])["upstream_status"] == "502"
    assert replicas[0].line_of(headers["X-Request-ID"]) is None


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [("/v1/operations/none:cancel", b"", 404), ("/v1/admin/catalogue?dry_run=true", b"x" * 200_000, 422)],
    ids=["small", "upload"],
)
def test_a_change_that_no_server_received_is_sent_to_another(gateways, replicas, path, content, status):
    gateway = gateways(upstream_file([free_port()], backup_ports=[replicas[0].port]))
    headers = {**ADMIN, "X-Request-ID": f"not-seen-{status}", "Content-Type": "application/zip"}

    answer = ask("POST", gateway.address + PREFIX + path, content=content, headers=headers)

    assert answer.status_code == status, answer.text
    assert gateway.line_of(headers["X-Request-ID"])["upstream_status"] == f"502, {status}"


@pytest.mark.parametrize("path", ["/search", "/v1/operations", "/v1/admin/labels", "/"])
def test_without_servers_the_gateway_responds_with_a_problem(gateways, path):
    gateway = gateways(upstream_file([free_port(), free_port()]))

    answer = ask("GET", gateway.address + PREFIX + path)

    assert (answer.status_code, answer.json()["code"]) == (502, "bad-gateway")
    assert answer.headers.get_list("retry-after") == ["1"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_silent_servers_end_in_a_gateway_timeout(gateways, image):
    with BrokenServer(is_silent=True) as first, BrokenServer(is_silent=True) as second:
        gateway = gateways(upstream_file([first.port, second.port]), GATEWAY_SEARCH_TIMEOUT="300ms")

        answer = search(gateway, image, "silence")

    assert (answer.status_code, answer.json()["code"]) == (504, "gateway-timeout")
    assert gateway.line_of("silence")["upstream_status"] == "504, 504"


def test_a_frozen_server_delays_searches_and_fails_none(gateways, replicas, image):
    """Its searches are retried on the other server after the timeout; least_conn sends it few further ones."""
    gateway = gateways(GATEWAY_SEARCH_TIMEOUT="5s")
    replicas[0].send(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: search(gateway, image), range(8)))
    finally:
        replicas[0].send(signal.SIGCONT)

    assert [answer.status_code for answer in answers] == [200] * 8
    tries = [str(gateway.line_of(answer.headers["x-request-id"])["upstream_status"]) for answer in answers]
    assert "504, 200" in tries
    wait_for(lambda: ask("GET", f"{replicas[0].address}/readyz").status_code == 200)


def make_keys(gateway: Gateway, is_over: threading.Event) -> list[tuple[str, int]]:
    """Create one key after the other; return each name with its status."""
    made: list[tuple[str, int]] = []
    headers = {"X-API-Key": KEY}
    with httpx.Client(verify=False, base_url=gateway.address + PREFIX, headers=headers, timeout=60) as client:
        while not is_over.is_set():
            name = f"under-fire-{len(made)}"
            made.append((name, client.post("/v1/admin/keys", json={"name": name, "scopes": ["search"]}).status_code))
    return made


async def search_while(gateway: Gateway, queries: Sequence[Query], figures: Figures, killed: Replica) -> None:
    """Search with all clients at once, without a pause, and kill a server in the middle."""
    is_over = asyncio.Event()
    searches: list[tuple[float, float]] = []
    base = gateway.address + PREFIX
    load = [
        asyncio.create_task(search_until(is_over, base, number, queries, searches, figures.failures))
        for number in range(figures.clients)
    ]
    async with asyncio.timeout(250):
        while len(searches) < 50:
            await asyncio.sleep(0.02)
        killed.kill()
        while len(searches) < 150:
            await asyncio.sleep(0.02)
        is_over.set()
        await asyncio.gather(*load)


@pytest.mark.shares("child processes")  # replaces replicas for all tests
def test_a_killed_server_fails_no_search_and_repeats_no_change(gateway, replicas, queries):
    """Sixteen clients search and one creates keys while a server is killed."""
    figures, is_over = Figures(16, 2), threading.Event()
    with ThreadPoolExecutor(1) as other:
        made = other.submit(make_keys, gateway, is_over)
        try:
            asyncio.run(search_while(gateway, queries, figures, replicas[1]))
        finally:
            is_over.set()
        statuses = dict(made.result())
    replicas[1].start_again()

    assert figures.failures == []
    # 409 would be a name that exists: a change that was sent twice. 502 is the change that the killed server dropped.
    assert set(statuses.values()) <= {201, 502}
    assert list(statuses.values()).count(502) <= 1
    shown = ask("GET", f"{gateway.address}{PREFIX}/v1/admin/keys", headers=ADMIN).json()["keys"]
    stored = [key["name"] for key in shown]
    assert {name for name, status in statuses.items() if status == 201} <= set(stored)
    assert len(set(stored)) == len(stored)
