"""/v1/admin/releases, activations and processes: what there is, what is served, and by whom."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from service.evaluations.records import list_evaluations, newest_evaluations
from service.installation.processes import API, GONE_SECONDS, list_processes, living_processes
from service.releases.activation import activate_verified, roll_back_verified
from service.releases.errors import InvalidRelease, ReleaseNotFound
from service.releases.files import read_manifest_facts
from service.releases.records import active_release, list_activations, list_releases, require_release
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.middleware.audit import note_for_audit
from service.web.route_scopes import KeyFirstRoute
from service.web.schemas.evaluations import EvaluationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from service.web.schemas.releases import (
    ActivationList,
    ActivationRequest,
    ActivationResult,
    ActivationState,
    ActivationView,
    ProcessList,
    ProcessView,
    ReleaseDetail,
    ReleaseList,
    ReleaseView,
    RollbackRequest,
)

router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=KeyFirstRoute)

Limit = Annotated[int, Query(ge=1, le=1000, description="How many, the newest first.")]

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such release."},
}
_NOT_ACTIVATED: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    409: {
        "model": Problem,
        "description": "A file of the release is damaged (`invalid-release`), another was activated meanwhile "
        "(`activation-conflict`), or none was active before (`no-previous-release`). Nothing has changed.",
    },
}


@router.get("/releases", responses=KEY_PROBLEMS)
def releases(app_state: AppStateDep, _: AdminDep, limit: Limit = 100) -> ReleaseList:
    """List the releases, with the newest evaluation of each and the servers that answer from it."""
    with app_state.database.reading() as session:
        rows = list_releases(session, with_retired=False)[:limit]
        active = active_release(session)
        servers = living_processes(session, API)
        evaluations = newest_evaluations(session, [row.id for row in rows])
    views = [ReleaseView.of(row, active, servers, evaluations.get(row.id)) for row in rows]
    return ReleaseList(activation=ActivationState.of(active), releases=views)


@router.get("/releases/{release_id}", responses=_NOT_FOUND)
def release(app_state: AppStateDep, _: AdminDep, release_id: str) -> ReleaseDetail:
    """Show a release: its manifest, when it was active, and how it did. Its files are not verified by that."""
    with app_state.database.reading() as session:
        row = require_release(session, release_id)
        active = active_release(session)
        servers = living_processes(session, API)
        activations = list_activations(session, release_id=release_id)
        evaluations = list_evaluations(session, release_id=release_id)
    manifest, problem = None, None
    try:
        manifest = dict(read_manifest_facts(app_state.settings.releases_dir, release_id))
    except (ReleaseNotFound, InvalidRelease) as error:
        problem = str(error)
    view = ReleaseView.of(row, active, servers, evaluations[0] if evaluations else None)
    return ReleaseDetail(
        **dict(view),
        manifest=manifest,
        problem=problem,
        activations=[ActivationView.of(event) for event in activations],
        evaluations=[EvaluationView.of(evaluation) for evaluation in evaluations],
    )


@router.post("/releases/{release_id}:activate", responses=_NOT_ACTIVATED)
def activate(
    app_state: AppStateDep, actor: AdminDep, release_id: str, body: ActivationRequest | None = None
) -> ActivationResult:
    """Serve a release, after every byte of it was verified; servers take it up by themselves."""
    asked = body or ActivationRequest()
    activated = activate_verified(
        app_state.installation,
        release_id,
        actor=actor.name,
        reason=asked.reason,
        expected_version=asked.expected_version,
    )
    return ActivationResult.of(activated)


@router.post("/releases:rollback", responses=_NOT_ACTIVATED)
def rollback(
    request: Request, app_state: AppStateDep, actor: AdminDep, body: RollbackRequest | None = None
) -> ActivationResult:
    """Serve the release that was active before the present one, or the one that `to` names, verified as well."""
    asked = body or RollbackRequest()
    rolled_back = _roll_back(app_state, actor, asked, asked.to)
    note_for_audit(request, target=rolled_back.release_id)
    return rolled_back


@router.post("/releases/{release_id}:rollback", responses=_NOT_ACTIVATED)
def rollback_to(
    app_state: AppStateDep, actor: AdminDep, release_id: str, body: ActivationRequest | None = None
) -> ActivationResult:
    """Go back to a release."""
    return _roll_back(app_state, actor, body or ActivationRequest(), release_id)


def _roll_back(app_state: AppStateDep, actor: AdminDep, asked: ActivationRequest, to: str | None) -> ActivationResult:
    activated = roll_back_verified(
        app_state.installation,
        to=to,
        actor=actor.name,
        reason=asked.reason,
        expected_version=asked.expected_version,
    )
    return ActivationResult.of(activated)


@router.get("/activations", responses=KEY_PROBLEMS)
def activations(
    app_state: AppStateDep,
    _: AdminDep,
    release_id: Annotated[str | None, Query(description="Only those of this release.")] = None,
    limit: Limit = 100,
) -> ActivationList:
    """List activations and rollbacks: what, when, who and why. Those of retired releases stay."""
    with app_state.database.reading() as session:
        events = list_activations(session, release_id=release_id, limit=limit)
    return ActivationList(activations=[ActivationView.of(event) for event in events])


@router.get("/processes", responses=KEY_PROBLEMS)
def processes(
    app_state: AppStateDep,
    _: AdminDep,
    kind: Annotated[Literal["api", "worker"] | None, Query(description="Only those of this kind.")] = None,
) -> ProcessList:
    """List servers and workers: which live, and which release each server answers from."""
    with app_state.database.reading() as session:
        rows = list_processes(session, kind=kind)
        living = {row.id for row in living_processes(session, None, GONE_SECONDS)}
    return ProcessList(processes=[ProcessView.of(row, is_living=row.id in living) for row in rows])
