"""List and find evaluations, for HTTP and the command line."""

from collections.abc import Mapping
from typing import cast

from service.evaluations.errors import EvaluationNotFound
from service.evaluations.records import select_evaluations
from service.storage.database import Database, in_utc
from service.storage.tables.evaluations import Evaluation


def list_evaluations(
    database: Database,
    *,
    release_id: str | None = None,
    evaluation_set_id: str | None = None,
    limit: int = 100,
    before: str | None = None,
) -> list[Evaluation]:
    """Return evaluations, newest first; the ids restrict them to one release or one evaluation set.

    `before` is the id of the last one of the previous page. Raises EvaluationNotFound if it is unknown.
    """
    with database.reading() as session:
        return select_evaluations(
            session, release_id=release_id, evaluation_set_id=evaluation_set_id, limit=limit, before=before
        )


def find_evaluation(database: Database, name: str) -> Evaluation:
    """Return the evaluation of this id, or the newest one of the release of this id; raises EvaluationNotFound."""
    with database.reading() as session:
        evaluation = session.get(Evaluation, name)
        if evaluation is not None:
            return evaluation
        of_release = select_evaluations(session, release_id=name, limit=1)
    if not of_release:
        raise EvaluationNotFound(
            f"{name!r} is neither an evaluation nor a release that was evaluated; see: akin evaluations list"
        )
    return of_release[0]


def evaluation_json(evaluation: Evaluation) -> dict[str, object]:
    """Return an evaluation as JSON values."""
    return {
        "evaluation_id": evaluation.id,
        "evaluation_set_id": evaluation.evaluation_set_id,
        "space_id": evaluation.space_id,
        "release_id": evaluation.release_id,
        "operation_id": evaluation.operation_id,
        "created_at": in_utc(evaluation.created_at).isoformat(timespec="seconds"),
        "num_queries": evaluation.num_queries,
        **gallery_sizes(evaluation),
        "metrics": evaluation.metrics,
    }


def gallery_sizes(evaluation: Evaluation) -> dict[str, int | None]:
    """Return the size of the gallery and how many of its images are distractors; None if they were not recorded."""
    recorded = cast(Mapping[str, Mapping[str, int]], evaluation.metrics).get("all", {})
    return {name: recorded.get(name) for name in ("num_gallery_images", "num_distractors")}
