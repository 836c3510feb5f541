"""Evaluations as the database knows them, and the files that belong to them.

A row says how a model did on an evaluation set, part by part. Beside it lie two files: the set, shared by all
evaluations on it, and what each query found.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.evaluations.errors import EvaluationNotFound
from service.installation.settings import Settings
from service.storage.database import in_utc, now
from service.storage.tables.releases import Evaluation

_ID_LENGTH = 16


def evaluation_id_of(operation_id: str, space_id: str) -> str:
    """Return the id of the evaluation that an operation makes of a model: the same when the step is repeated."""
    return hashlib.sha256(f"{operation_id}\n{space_id}".encode()).hexdigest()[:_ID_LENGTH]


def set_path(settings: Settings, evaluation_set_id: str) -> Path:
    """Return where an evaluation set lies."""
    return settings.evaluations_dir / "sets" / f"{evaluation_set_id}.arrow"


def measurement_path(settings: Settings, evaluation_id: str) -> Path:
    """Return where the outcome of each query of an evaluation lies."""
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
    """Write what was measured; again under the same id it replaces what stood there, but for the time of the first.

    `metrics` are by part, then by name. The files should lie in place before: a row stands for something to look at.
    """
    known = session.get(Evaluation, evaluation_id)
    session.merge(
        Evaluation(
            id=evaluation_id,
            evaluation_set_id=evaluation_set_id,
            space_id=space_id,
            # A candidate has no release when it is measured; one that it got since is not forgotten.
            release_id=release_id or (known.release_id if known else None),
            operation_id=operation_id,
            created_at=known.created_at if known else now(),
            num_queries=num_queries,
            metrics=dict(metrics),
        )
    )


def assign_release(session: Session, evaluation_id: str, release_id: str) -> None:
    """Say which release the measured model has become; raises EvaluationNotFound."""
    get_evaluation(session, evaluation_id).release_id = release_id


def get_evaluation(session: Session, evaluation_id: str) -> Evaluation:
    """Return one evaluation; raises EvaluationNotFound."""
    found = session.get(Evaluation, evaluation_id)
    if found is None:
        raise EvaluationNotFound(f"there is no evaluation {evaluation_id!r}; see: akin evaluations list")
    return found


def list_evaluations(
    session: Session, *, release_id: str | None = None, evaluation_set_id: str | None = None, limit: int = 100
) -> list[Evaluation]:
    """Return evaluations, the newest first; those of one release or one set only, where their ids are given."""
    query = select(Evaluation).order_by(Evaluation.created_at.desc(), Evaluation.id).limit(limit)
    if release_id is not None:
        query = query.where(Evaluation.release_id == release_id)
    if evaluation_set_id is not None:
        query = query.where(Evaluation.evaluation_set_id == evaluation_set_id)
    return list(session.scalars(query))


def find_evaluation(session: Session, name: str) -> Evaluation:
    """Return the evaluation of this id, or the newest one of the release of this id; raises EvaluationNotFound."""
    found = session.get(Evaluation, name)
    if found is not None:
        return found
    of_release = list_evaluations(session, release_id=name, limit=1)
    if not of_release:
        raise EvaluationNotFound(
            f"{name!r} is neither an evaluation nor a release that was evaluated; see: akin evaluations list"
        )
    return of_release[0]


def evaluation_json(evaluation: Evaluation) -> dict[str, object]:
    """Return what is told of an evaluation."""
    return {
        "evaluation_id": evaluation.id,
        "evaluation_set_id": evaluation.evaluation_set_id,
        "space_id": evaluation.space_id,
        "release_id": evaluation.release_id,
        "operation_id": evaluation.operation_id,
        "created_at": in_utc(evaluation.created_at).isoformat(timespec="seconds"),
        "num_queries": evaluation.num_queries,
        "metrics": evaluation.metrics,
    }


def newest_evaluations(session: Session, release_ids: Sequence[str]) -> dict[str, Evaluation]:
    """Return the newest evaluation of each release that has one."""
    rows = session.scalars(
        select(Evaluation)
        .where(Evaluation.release_id.in_(release_ids))
        .order_by(Evaluation.created_at, Evaluation.id.desc())
    )
    return {row.release_id: row for row in rows if row.release_id is not None}
