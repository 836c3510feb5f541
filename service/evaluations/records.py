"""Rows of evaluations and the paths of their files; the functions take the session of their caller.

A row holds the metrics of one model on one evaluation set. Two files belong to it: the set, which all evaluations on it
share, and the measurement, which holds the result of each query.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from service.evaluations.errors import EvaluationNotFound
from service.installation.settings import Settings
from service.storage.database import now
from service.storage.tables.evaluations import Evaluation

_ID_LENGTH = 16


def evaluation_id_of(operation_id: str, space_id: str) -> str:
    """Return the id of the evaluation of a model by an operation; a repeated step gets the same id."""
    return hashlib.sha256(f"{operation_id}\n{space_id}".encode()).hexdigest()[:_ID_LENGTH]


def set_path(settings: Settings, evaluation_set_id: str) -> Path:
    """Return the path of an evaluation set."""
    return settings.evaluations_dir / "sets" / f"{evaluation_set_id}.arrow"


def measurement_path(settings: Settings, evaluation_id: str) -> Path:
    """Return the path of an evaluation's measurement."""
    return settings.evaluations_dir / f"{evaluation_id}.arrow"


def record_evaluation(
    session: Session,
    *,
    evaluation_id: str,
    evaluation_set_id: str,
    space_id: str,
    num_queries: int,
    metrics: Mapping[str, object],
    release_id: str | None = None,
    operation_id: str | None = None,
) -> None:
    """Record an evaluation, or replace one of the same id, whose time and release are kept.

    `metrics` are by part, then by name. Write the files first, so that each row has its files.
    """
    earlier = session.get(Evaluation, evaluation_id)
    session.merge(
        Evaluation(
            id=evaluation_id,
            evaluation_set_id=evaluation_set_id,
            space_id=space_id,
            # A candidate is published only after its evaluation.
            release_id=release_id or (earlier.release_id if earlier else None),
            operation_id=operation_id,
            created_at=earlier.created_at if earlier else now(),
            num_queries=num_queries,
            metrics=dict(metrics),
        )
    )


def assign_release(session: Session, evaluation_id: str, release_id: str) -> None:
    """Record which release the evaluated model became; raises EvaluationNotFound."""
    evaluation = session.get(Evaluation, evaluation_id)
    if evaluation is None:
        raise EvaluationNotFound(f"there is no evaluation {evaluation_id!r}; see: akin evaluations list")
    evaluation.release_id = release_id


def select_evaluations(
    session: Session,
    *,
    release_id: str | None = None,
    evaluation_set_id: str | None = None,
    limit: int = 100,
    before: str | None = None,
) -> list[Evaluation]:
    """Return evaluations, newest first; the ids restrict them to one release or one evaluation set.

    `before` is the id of the last one of the previous page. Raises EvaluationNotFound if it is unknown.
    """
    query = select(Evaluation).order_by(Evaluation.created_at.desc(), Evaluation.id).limit(limit)
    if before is not None:
        last = session.get(Evaluation, before)
        if last is None:
            raise EvaluationNotFound(f"there is no evaluation {before!r:.80}; begin with the first page again")
        is_same_time = and_(Evaluation.created_at == last.created_at, Evaluation.id > last.id)
        query = query.where(or_(Evaluation.created_at < last.created_at, is_same_time))
    if release_id is not None:
        query = query.where(Evaluation.release_id == release_id)
    if evaluation_set_id is not None:
        query = query.where(Evaluation.evaluation_set_id == evaluation_set_id)
    return list(session.scalars(query))


def newest_evaluations(session: Session, release_ids: Sequence[str]) -> dict[str, Evaluation]:
    """Return the newest evaluation of each release that has one."""
    rows = session.scalars(
        select(Evaluation)
        .where(Evaluation.release_id.in_(release_ids))
        .order_by(Evaluation.created_at, Evaluation.id.desc())
    )
    return {row.release_id: row for row in rows if row.release_id is not None}
