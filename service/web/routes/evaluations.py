"""/v1/admin/evaluations: how models did, and where two of them differ."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.evaluations.comparison import DEFAULT_LIMIT, compare_evaluations
from service.evaluations.records import find_evaluation, list_evaluations
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.schemas.evaluations import ADMIN_MEDIA_PATH, ComparisonView, EvaluationList, EvaluationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem

router = APIRouter(prefix="/v1/admin/evaluations", tags=["admin"])

Name = Annotated[str, Query(min_length=1, description="Id of an evaluation, or of a release: its newest one.")]

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such evaluation, or its files cannot be read."},
}
_NOT_COMPARABLE: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    409: {"model": Problem, "description": "They are of different sets of queries."},
}


@router.get("", responses=KEY_PROBLEMS)
def evaluations(
    app_state: AppStateDep,
    _: AdminDep,
    release_id: Annotated[str | None, Query(description="Only those of this release.")] = None,
    evaluation_set_id: Annotated[str | None, Query(description="Only those on this set.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many, the newest first.")] = 100,
) -> EvaluationList:
    """List evaluations."""
    with app_state.database.reading() as session:
        rows = list_evaluations(session, release_id=release_id, evaluation_set_id=evaluation_set_id, limit=limit)
    return EvaluationList(evaluations=[EvaluationView.of(row) for row in rows])


# Before the next route, which would take "compare" for an id.
@router.get("/compare", responses=_NOT_COMPARABLE)
def compare(
    request: Request,
    app_state: AppStateDep,
    _: AdminDep,
    a: Name,
    b: Name,
    limit: Annotated[int, Query(ge=0, le=1000, description="Classes and queries shown each way.")] = DEFAULT_LIMIT,
) -> ComparisonView:
    """Say what changed from `a` to `b`: figures with intervals, classes, and queries with their first answers."""
    comparison = compare_evaluations(app_state.installation, a, b, limit=limit)
    return ComparisonView.of(comparison, f"{request.scope.get('root_path', '')}{ADMIN_MEDIA_PATH}")


@router.get("/{name}", responses=_NOT_FOUND)
def evaluation(app_state: AppStateDep, _: AdminDep, name: str) -> EvaluationView:
    """Show an evaluation, named by its id or by its release."""
    with app_state.database.reading() as session:
        return EvaluationView.of(find_evaluation(session, name))
