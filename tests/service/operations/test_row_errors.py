"""Failed rows of an import: replaced as a whole, counted beyond what is listed, on both databases."""

import pytest

from service.operations import row_errors
from service.operations.claims import OperationLost, claim_operation
from service.operations.errors import OperationNotFound
from service.operations.records import create_operation
from service.operations.row_errors import RowErrorCounts, RowProblem, list_row_errors, record_row_errors


@pytest.fixture
def database(installation_on_both):
    return installation_on_both.database


@pytest.fixture
def operation_id(database):
    made = create_operation(database, "import", {}, actor="test")[0].id
    claim_operation(database, made, "w")
    return made


def problems(number):
    return [RowProblem("failed", f"a.csv:{line}", "broken") for line in range(2, number + 2)]


def record(database, operation_id, found, *, num_left_out=0, worker_id="w"):
    record_row_errors(
        database, operation_id, worker_id, found, num_failed=len(found) - num_left_out, num_left_out=num_left_out
    )


def test_an_operation_without_failed_rows_has_an_empty_list(database, operation_id):
    page = list_row_errors(database, operation_id)

    assert (page.counts, page.problems, page.has_more) == (RowErrorCounts(), [], False)


def test_a_repeated_step_replaces_the_list(database, operation_id, monkeypatch):
    monkeypatch.setattr(row_errors, "_CHUNK_ROWS", 2)
    record(database, operation_id, problems(5))

    record(database, operation_id, problems(3))

    page = list_row_errors(database, operation_id)
    assert [number for number, _ in page.problems] == [1, 2, 3]
    assert page.counts == RowErrorCounts(num_failed=3, num_listed=3)


def test_lists_one_kind_in_pages(database, operation_id):
    found = [RowProblem("left-out" if number % 2 else "failed", str(number), "x") for number in range(6)]
    record(database, operation_id, found, num_left_out=3)

    first = list_row_errors(database, operation_id, kind="left-out", limit=2)
    second = list_row_errors(database, operation_id, kind="left-out", limit=2, after=first.problems[-1][0])

    assert [problem.location for _, problem in first.problems + second.problems] == ["1", "3", "5"]
    assert (first.has_more, second.has_more) == (True, False)
    assert first.counts == RowErrorCounts(num_failed=3, num_left_out=3, num_listed=6)


def test_counts_beyond_the_limit_of_the_list(database, operation_id, monkeypatch):
    monkeypatch.setattr(row_errors, "MAX_LISTED", 4)

    record(database, operation_id, problems(7))

    assert list_row_errors(database, operation_id).counts == RowErrorCounts(num_failed=7, num_listed=4)


def test_texts_that_no_database_stores_are_escaped(database, operation_id):
    record(database, operation_id, [RowProblem("failed", "a\udce4.png", "a\0b")])

    ((_, problem),) = list_row_errors(database, operation_id).problems
    assert (problem.location, problem.message) == ("a\\udce4.png", "a\\x00b")


def test_a_worker_that_lost_the_operation_lists_nothing(database, operation_id):
    with pytest.raises(OperationLost):
        record(database, operation_id, problems(1), worker_id="other")

    assert list_row_errors(database, operation_id).problems == []


def test_an_unknown_operation_has_no_list(database):
    with pytest.raises(OperationNotFound):
        list_row_errors(database, "nonsense")
