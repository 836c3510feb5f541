"""/v1/admin/releases and /v1/admin/activations."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.releases.activation import activate_verified, roll_back_verified
from service.releases.inspection import find_release
from service.releases.queries import list_activations, list_releases
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.middleware.audit import note_for_audit
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from service.web.schemas.releases import (
    ActivationList,
    ActivationRequest,
    ActivationResult,
    ActivationState,
    ActivationView,
    ReleaseDetail,
    ReleaseList,
    ReleaseView,
    RollbackRequest,
)
from service.web.scope_checks import KeyFirstRoute

router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=KeyFirstRoute)

Limit = Annotated[int, Query(ge=1, le=1000, description="How many, newest first.")]
_BEFORE = "`next` of the previous page."

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such release."},
}
_NOT_ACTIVATED: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    409: {
        "model": Problem,
        "description": "A file of the release is damaged (`invalid-release`), another release was activated in the "
        "meantime (`activation-conflict`), or none was active before (`no-previous-release`). Nothing has changed.",
    },
}


@router.get("/releases", responses=KEY_PROBLEMS)
def releases(
    app_state: AppStateDep,
    _: AdminDep,
    limit: Limit = 100,
    before: Annotated[str | None, Query(description=_BEFORE)] = None,
) -> ReleaseList:
    """List releases, each with its newest evaluation and the servers that answer from it."""
    listing = list_releases(app_state.database, limit=limit + 1, before=before)
    page = listing.releases[:limit]
    return ReleaseList(
        activation=ActivationState.of(listing.activation),
        releases=[ReleaseView.of(one) for one in page],
        next=page[-1].release.id if len(listing.releases) > limit else None,
    )


@router.get("/releases/{release_id}", responses=_NOT_FOUND)
def release(app_state: AppStateDep, _: AdminDep, release_id: str) -> ReleaseDetail:
    """Show a release with its manifest, activations and evaluations. Its files are not verified."""
    return ReleaseDetail.from_details(find_release(app_state.installation, release_id))


@router.post("/releases/{release_id}:activate", responses=_NOT_ACTIVATED)
def activate(
    app_state: AppStateDep, actor: AdminDep, release_id: str, body: ActivationRequest | None = None
) -> ActivationResult:
    """Activate a release after every byte of it has been verified; running servers load it on their own."""
    choice = body or ActivationRequest()
    activated = activate_verified(
        app_state.installation,
        release_id,
        actor=actor.name,
        reason=choice.reason,
        expected_version=choice.expected_version,
    )
    return ActivationResult.of(activated)


@router.post("/releases:rollback", responses=_NOT_ACTIVATED)
def rollback(
    request: Request, app_state: AppStateDep, actor: AdminDep, body: RollbackRequest | None = None
) -> ActivationResult:
    """Activate the previously active release, or the release `to`, after verifying it."""
    choice = body or RollbackRequest()
    rolled_back = _roll_back(app_state, actor, choice, choice.to)
    note_for_audit(request, target=rolled_back.release_id)
    return rolled_back


@router.post("/releases/{release_id}:rollback", responses=_NOT_ACTIVATED)
def rollback_to(
    app_state: AppStateDep, actor: AdminDep, release_id: str, body: ActivationRequest | None = None
) -> ActivationResult:
    """Activate an earlier release after verifying it."""
    return _roll_back(app_state, actor, body or ActivationRequest(), release_id)


def _roll_back(app_state: AppStateDep, actor: AdminDep, choice: ActivationRequest, to: str | None) -> ActivationResult:
    activated = roll_back_verified(
        app_state.installation,
        to=to,
        actor=actor.name,
        reason=choice.reason,
        expected_version=choice.expected_version,
    )
    return ActivationResult.of(activated)


@router.get("/activations", responses=KEY_PROBLEMS)
def activations(
    app_state: AppStateDep,
    _: AdminDep,
    release_id: Annotated[str | None, Query(description="Only those of this release.")] = None,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=0, le=2**31 - 1, description=_BEFORE)] = None,
) -> ActivationList:
    """List activations and rollbacks, newest first; those of retired releases are kept."""
    events = list_activations(app_state.database, release_id=release_id, limit=limit + 1, before=before)
    page = events[:limit]
    return ActivationList(
        activations=[ActivationView.of(event) for event in page], next=page[-1].version if len(events) > limit else None
    )
