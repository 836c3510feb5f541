"""Processes of this installation as the database knows them: which run, where, and which release a server serves.

All times are of the database's clock: the clocks of two machines may differ by more than a process may be silent.
"""

import os
import secrets
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from service.storage.database import Database, database_time
from service.storage.tables.processes import Process

API, WORKER = "api", "worker"
KINDS = (API, WORKER)

# A process whose last heartbeat, sent every few seconds, is older than this is considered gone.
GONE_SECONDS = 60.0
_KEPT_SECONDS = 24 * 3600.0


def register_process(database: Database, kind: str, process_id: str | None = None) -> str:
    """Register this process and return its id; the id of an earlier run of it may be used again."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    process_id = process_id or secrets.token_hex(8)
    with database.transaction() as session:
        session.merge(_new_row(process_id, kind, database_time(session)))
    return process_id


def beat(
    database: Database, process_id: str, *, kind: str = API, release_id: str | None = None, refusal: str | None = None
) -> None:
    """Record that the process is running, and which release it serves or refuses.

    Recreates a row that was pruned meanwhile; only then is `kind` used.
    """
    with database.transaction() as session:
        moment = database_time(session)
        beaten = session.execute(
            update(Process)
            .where(Process.id == process_id)
            .values(seen_at=moment, stopped_at=None, release_id=release_id, refusal=refusal)
            .returning(Process.id)
        ).all()
        if not beaten:
            row = _new_row(process_id, kind, moment)
            row.release_id, row.refusal = release_id, refusal
            session.add(row)


def stop_process(database: Database, process_id: str) -> None:
    """Record that the process has ended, so that it is not considered running until its heartbeat is old."""
    with database.transaction() as session:
        session.execute(update(Process).where(Process.id == process_id).values(stopped_at=database_time(session)))


def list_processes(session: Session, *, kind: str | None = None) -> list[Process]:
    """Return the processes seen within about a day, the last seen first."""
    query = select(Process).order_by(Process.seen_at.desc(), Process.id)
    return list(session.scalars(query.where(Process.kind == kind) if kind else query))


def read_processes(database: Database, *, kind: str | None = None) -> list[tuple[Process, bool]]:
    """Return what `list_processes` does, each with whether it is alive; for HTTP and the command line."""
    with database.reading() as session:
        living = {process.id for process in living_processes(session, kind)}
        return [(process, process.id in living) for process in list_processes(session, kind=kind)]


def living_processes(session: Session, kind: str | None, within_seconds: float = GONE_SECONDS) -> list[Process]:
    """Return the processes that have not stopped and were seen within `within_seconds`; `kind` None for all kinds."""
    earliest = database_time(session) - timedelta(seconds=within_seconds)
    query = select(Process).where(Process.stopped_at.is_(None), Process.seen_at >= earliest)
    if kind is not None:
        query = query.where(Process.kind == kind)
    return list(session.scalars(query.order_by(Process.seen_at.desc(), Process.id)))


def served_releases(session: Session) -> set[str]:
    """Return the releases that running servers serve."""
    return {process.release_id for process in living_processes(session, API) if process.release_id}


def prune_processes(session: Session) -> Sequence[str]:
    """Delete the rows of processes that stopped or were last seen over a day ago; return their ids."""
    earliest = database_time(session) - timedelta(seconds=_KEPT_SECONDS)
    is_old = or_(Process.stopped_at < earliest, Process.seen_at < earliest)
    return session.scalars(delete(Process).where(is_old).returning(Process.id)).all()


def _new_row(process_id: str, kind: str, moment: datetime) -> Process:
    # Sets all columns, so that nothing remains of an earlier run whose row it is merged into.
    return Process(
        id=process_id,
        kind=kind,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=moment,
        seen_at=moment,
        stopped_at=None,
        release_id=None,
        refusal=None,
    )
