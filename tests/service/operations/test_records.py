"""Rows of operations: one active of each kind, one owner at a time, on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.operations import records
from service.operations.cancelling import request_cancel
from service.operations.claims import (
    OperationLost,
    begin_step,
    claim_operation,
    end_operation,
    finish_step,
    give_back_operation,
)
from service.operations.errors import (
    IdempotencyKeyReused,
    OperationActive,
    OperationEnded,
    OperationNotFound,
    QueueFull,
)
from service.operations.records import create_operation, get_operation, select_operations
from service.storage.database import now
from service.storage.tables.releases import ActivationEvent


@pytest.fixture
def database(installation_on_both):
    return installation_on_both.database


def make(database, kind="retrain", request=None, **more):
    return create_operation(database, kind, request or {"note": "a"}, actor="ann", **more)[0]


def read(database, operation_id):
    with database.reading() as session:
        return get_operation(session, operation_id)


def test_refuses_a_second_operation_of_a_kind_but_not_of_another(database):
    first = make(database)

    with pytest.raises(OperationActive, match=f"{first.id} is queued.*akin operations cancel") as refused:
        make(database)
    assert refused.value.operation_id == first.id
    assert make(database, "build").kind == "build"


def test_queues_imports_beside_each_other_up_to_a_limit(database, monkeypatch):
    monkeypatch.setattr(records, "_MAX_QUEUED", 2)
    first, second = make(database, "import"), make(database, "import")

    with pytest.raises(QueueFull, match="2 operations of kind import are queued or running"):
        make(database, "import")
    assert make(database, "labels").state == "queued"
    request_cancel(database, first.id)
    assert make(database, "import").state == second.state == "queued"


def test_of_concurrent_requests_one_is_queued(database):
    barrier = threading.Barrier(8)

    def request(_):
        barrier.wait()
        try:
            return make(database).id
        except OperationActive as refused:
            return refused

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(request, range(8)))

    queued = [answer for answer in answers if isinstance(answer, str)]
    assert len(queued) == 1
    assert {refused.operation_id for refused in answers if isinstance(refused, OperationActive)} == set(queued)


def test_a_repeated_key_returns_the_operation_even_after_its_end(database):
    first = make(database, idempotency_key="k")
    request_cancel(database, first.id)

    again, is_new = create_operation(database, "retrain", {"note": "a"}, actor="bob", idempotency_key="k")

    assert (again.id, is_new) == (first.id, False)
    with pytest.raises(IdempotencyKeyReused, match=f"'k' was used before with a different request \\({first.id}\\)"):
        make(database, request={"note": "b"}, idempotency_key="k")


def test_concurrent_requests_with_one_key_get_the_same_operation(database):
    barrier = threading.Barrier(6)

    def request(_):
        barrier.wait()
        return make(database, idempotency_key="k").id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(request, range(6)))) == 1


def test_a_queued_operation_is_cancelled_at_once_and_repeatably(database):
    operation = make(database)

    cancelled = request_cancel(database, operation.id)

    assert cancelled.state == "cancelled"
    assert request_cancel(database, operation.id).finished_at is not None
    assert claim_operation(database, operation.id, "w1") is None
    assert make(database).state == "queued"


def test_an_ended_operation_cannot_be_cancelled(database):
    operation = make(database)
    claim_operation(database, operation.id, "w1")
    end_operation(database, operation.id, "w1", "succeeded", None)

    with pytest.raises(OperationEnded, match="has already succeeded"):
        request_cancel(database, operation.id)
    with pytest.raises(OperationNotFound, match=r"'nonsense'.*akin operations list"):
        request_cancel(database, "nonsense")


def test_an_operation_whose_release_is_active_cannot_be_cancelled(database):
    """Even if its worker died between activating and recording that: the row alone does not know yet."""
    operation = make(database)
    claim_operation(database, operation.id, "w1")
    with database.transaction() as session:
        session.add(
            ActivationEvent(
                version=1, release_id="r1", activated_at=now(), activated_by="ann", reason="", operation_id=operation.id
            )
        )

    with pytest.raises(OperationEnded, match="akin release rollback"):
        request_cancel(database, operation.id)

    assert read(database, operation.id).state == "running"


def test_a_worker_that_lost_an_operation_cannot_write(database):
    operation = make(database)
    claim_operation(database, operation.id, "w1")
    begin_step(database, operation.id, "w1", "train")
    claim_operation(database, operation.id, "w2")

    for write in (
        lambda: begin_step(database, operation.id, "w1", "evaluate"),
        lambda: finish_step(database, operation.id, "w1", "train", {"a": 1}, 1.0),
        lambda: end_operation(database, operation.id, "w1", "failed", None),
        lambda: give_back_operation(database, operation.id, "w1"),
    ):
        with pytest.raises(OperationLost):
            write()
    found = read(database, operation.id)
    assert (found.state, found.worker_id, found.result, found.attempts) == ("running", "w2", {}, 2)


def test_repeated_steps_keep_their_order_and_first_start(database):
    operation = make(database)
    claim_operation(database, operation.id, "w1")
    for name in ("snapshot", "train"):
        begin_step(database, operation.id, "w1", name)
        finish_step(database, operation.id, "w1", name, {name: 1}, 0.5)
    first = read(database, operation.id).steps[1]["started_at"]
    claim_operation(database, operation.id, "w2")
    begin_step(database, operation.id, "w2", "train")

    found = read(database, operation.id)
    assert [step["name"] for step in found.steps] == ["snapshot", "train"]
    assert found.steps[1] == {"name": "train", "started_at": first}
    assert found.result == {"snapshot": 1, "train": 1}


def test_an_orderly_stop_does_not_count_as_an_attempt(database):
    operation = make(database)
    claim_operation(database, operation.id, "w1")
    give_back_operation(database, operation.id, "w1")

    assert claim_operation(database, operation.id, "w2") is not None
    assert read(database, operation.id).attempts == 1


def test_pages_list_the_newest_first(database):
    ids = []
    for _ in range(5):
        ids.append(make(database).id)
        request_cancel(database, ids[-1])

    with database.reading() as session:
        first = [operation.id for operation in select_operations(session, limit=3)]
        rest = [operation.id for operation in select_operations(session, limit=3, before=first[-1])]
        none = select_operations(session, states=["running"])

    assert first + rest == list(reversed(ids))
    assert none == []
