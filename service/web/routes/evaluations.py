"""/v1/admin/evaluations: list, show and compare evaluations."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.evaluations.comparison import DEFAULT_LIMIT, compare_evaluations
from service.evaluations.queries import find_evaluation, list_evaluations
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.schemas.evaluations import ComparisonView, EvaluationList, EvaluationView
from service.web.schemas.labels import ADMIN_MEDIA_PATH
from service.web.schemas.problems import KEY_PROBLEMS, Problem

router = APIRouter(prefix="/v1/admin/evaluations", tags=["admin"])

Name = Annotated[str, Query(min_length=1, description="Id of an evaluation, or of a release for its newest one.")]

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such evaluation, or its files cannot be read."},
}
_NOT_COMPARABLE: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    409: {"model": Problem, "description": "The evaluations are of different sets of queries."},
}


@router.get("", responses=KEY_PROBLEMS)
def evaluations(
    app_state: AppStateDep,
    _: AdminDep,
    release_id: Annotated[str | None, Query(description="Only those of this release.")] = None,
    evaluation_set_id: Annotated[str | None, Query(description="Only those on this set.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many, newest first.")] = 100,
    before: Annotated[str | None, Query(description="`next` of the previous page.")] = None,
) -> EvaluationList:
    """List evaluations, newest first."""
    rows = list_evaluations(
        app_state.database,
        release_id=release_id,
        evaluation_set_id=evaluation_set_id,
        limit=limit + 1,
        before=before,
    )
    page = rows[:limit]
    return EvaluationList(
        evaluations=[EvaluationView.of(row) for row in page], next=page[-1].id if len(rows) > limit else None
    )


# Declared before the next route, which would take "compare" as an id.
@router.get("/compare", responses=_NOT_COMPARABLE)
def compare(
    request: Request,
    app_state: AppStateDep,
    _: AdminDep,
    a: Name,
    b: Name,
    limit: Annotated[
        int, Query(ge=0, le=1000, description="Maximum length of each list of classes or queries.")
    ] = DEFAULT_LIMIT,
) -> ComparisonView:
    """Compare `b` with `a`: metrics with confidence intervals, and the classes and queries that changed most."""
    comparison = compare_evaluations(app_state.installation, a, b, limit=limit)
    return ComparisonView.of(comparison, f"{request.scope.get('root_path', '')}{ADMIN_MEDIA_PATH}")


@router.get("/{name}", responses=_NOT_FOUND)
def evaluation(app_state: AppStateDep, _: AdminDep, name: str) -> EvaluationView:
    """Show an evaluation, given by its id or by its release's."""
    return EvaluationView.of(find_evaluation(app_state.database, name))
