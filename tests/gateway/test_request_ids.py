"""A request has one id in the gateway's log, the server's log and the response."""

import re

import httpx
import pytest

from benchmarks.gateway import ask, free_port, gateway_before, upstream_file
from tests.gateway.conftest import PREFIX
from tests.service.conftest import wait_for


def check(gateway, replicas, answer: httpx.Response, *, server_is_asked: bool = True) -> str:
    """Check that a response has one id, the same as in both logs; return the id."""
    (request_id,) = answer.headers.get_list("x-request-id")
    assert gateway.line_of(request_id)["status"] == answer.status_code
    if server_is_asked:
        wait_for(lambda: any(replica.line_of(request_id) for replica in replicas))
        assert sum(replica.line_of(request_id) is not None for replica in replicas) == 1
    return request_id


@pytest.mark.parametrize("given", ["a", "order-4711.retry_2", "X" * 64])
def test_a_valid_id_of_the_client_is_kept(client, gateway, replicas, given):
    answer = client.get("/version", headers={"X-Request-ID": given})

    assert check(gateway, replicas, answer) == given


@pytest.mark.parametrize("given", ["X" * 65, "with space", 'quote"', "semi;colon", "ünïcode".encode(), "a/../b", ""])
def test_an_id_that_is_unsafe_in_a_log_is_replaced(client, gateway, replicas, given):
    answer = client.get("/version", headers={"X-Request-ID": given})

    assert re.fullmatch(r"[0-9a-f]{32}", check(gateway, replicas, answer))


def test_the_gateway_generates_an_id_for_each_request_without_one(client, gateway, replicas):
    ids = {check(gateway, replicas, client.get("/version")) for _ in range(3)}

    assert len(ids) == 3


def test_two_ids_are_not_joined(client, gateway, replicas):
    answer = client.get("/version", headers=[("X-Request-ID", "first"), ("X-Request-ID", "second")])

    assert check(gateway, replicas, answer) == "first" or re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_header_name_with_underscores_is_ignored(client, gateway, replicas):
    answer = client.get("/version", headers={"X_Request_ID": "with-underscores"})

    assert check(gateway, replicas, answer) != "with-underscores"


def test_the_problem_documents_of_a_server_contain_the_id(client, gateway, replicas):
    answer = client.get("/nothing", headers={"X-Request-ID": "a-problem"})

    assert check(gateway, replicas, answer) == answer.json()["request_id"] == "a-problem"


def test_the_problem_documents_of_the_gateway_contain_the_id(gateway, replicas):
    answer = ask("GET", f"{gateway.address}/outside", headers={"X-Request-ID": "outside-the-prefix"})

    assert check(gateway, replicas, answer, server_is_asked=False) == "outside-the-prefix"
    assert answer.json()["request_id"] == "outside-the-prefix"


@pytest.fixture
def gateway_with_one_dead_server(replicas):
    with gateway_before(upstream_file([free_port(), replicas[0].port]), AKIN_ROOT_PATH=PREFIX) as running:
        yield running


def test_a_retried_search_has_one_id(gateway_with_one_dead_server, replicas, image):
    address = f"{gateway_with_one_dead_server.address}{PREFIX}/search"
    ids = [f"retried-{number}" for number in range(4)]

    answers = [ask("POST", address, files={"image": image}, headers={"X-Request-ID": one}) for one in ids]

    assert [check(gateway_with_one_dead_server, replicas, answer) for answer in answers] == ids
    lines = [gateway_with_one_dead_server.line_of(one) for one in ids]
    assert any(line["upstream_status"] == "502, 200" for line in lines)
