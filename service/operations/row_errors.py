"""Rows of an import that could not be used, and files that were left out: counted, and listed up to a limit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice

from sqlalchemy import delete, insert, select

from service.catalogue.records import chunks
from service.operations.claims import own_operation
from service.operations.records import get_operation
from service.storage.database import Database, now
from service.storage.tables.operations import OperationRowError, RowErrorKind

MAX_LISTED = 100_000
# The key of the counts in the result of an operation.
ROW_COUNTS = "row_errors"
_CHUNK_ROWS = 1000


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row that could not be used (`failed`), or a file that was left out (`left-out`), and the reason."""

    kind: RowErrorKind
    location: str
    message: str


@dataclass(frozen=True, slots=True)
class RowErrorCounts:
    """All rows that failed and files that were left out; `num_listed` of them are listed.

    Of the files that were left out, `num_images_left_out` are images, or may be.
    """

    num_failed: int = 0
    num_left_out: int = 0
    num_images_left_out: int = 0
    num_listed: int = 0


@dataclass(frozen=True, slots=True)
class RowErrorPage:
    """A page of the problems of an operation, each with its number in the order of the upload."""

    counts: RowErrorCounts
    problems: list[tuple[int, RowProblem]]
    has_more: bool


def record_row_errors(
    database: Database,
    operation_id: str,
    worker_id: str,
    problems: Iterable[RowProblem],
    *,
    num_failed: int,
    num_left_out: int = 0,
    num_images_left_out: int = 0,
) -> None:
    """Replace the listed problems of an operation by the first of these, and record the counts in its result.

    Raises OperationLost if another worker owns the operation.
    """
    with database.transaction() as session:
        own_operation(session, operation_id, worker_id)
        session.execute(delete(OperationRowError).where(OperationRowError.operation_id == operation_id))
    num_listed = 0
    for chunk in chunks(islice(problems, MAX_LISTED), _CHUNK_ROWS):
        rows = [
            {
                "operation_id": operation_id,
                "number": number,
                "kind": problem.kind,
                "location": storable(problem.location),
                "message": storable(problem.message),
            }
            for number, problem in enumerate(chunk, num_listed + 1)
        ]
        with database.transaction() as session:
            own_operation(session, operation_id, worker_id)
            session.execute(insert(OperationRowError), rows)
        num_listed += len(rows)
    with database.transaction() as session:
        operation = own_operation(session, operation_id, worker_id)
        counts = RowErrorCounts(num_failed, num_left_out, num_images_left_out, num_listed)
        operation.result = {**operation.result, ROW_COUNTS: asdict(counts)}
        operation.updated_at = now()


def list_row_errors(
    database: Database, operation_id: str, *, kind: RowErrorKind | None = None, limit: int = 100, after: int = 0
) -> RowErrorPage:
    """Return a page of the problems of an operation; `after` is the last number of the previous page.

    Raises OperationNotFound.
    """
    query = (
        select(OperationRowError)
        .where(OperationRowError.operation_id == operation_id, OperationRowError.number > after)
        .order_by(OperationRowError.number)
        .limit(limit + 1)
    )
    if kind is not None:
        query = query.where(OperationRowError.kind == kind)
    with database.reading() as session:
        recorded = get_operation(session, operation_id).result.get(ROW_COUNTS)
        rows = [(row.number, RowProblem(row.kind, row.location, row.message)) for row in session.scalars(query)]
    counts = RowErrorCounts(**recorded) if isinstance(recorded, dict) else RowErrorCounts()
    return RowErrorPage(counts, rows[:limit], len(rows) > limit)


def storable(text: str) -> str:
    """Return a text that every database stores: a file name in an archive may have bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
