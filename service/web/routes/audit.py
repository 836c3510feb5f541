"""/v1/admin/audit: who changed what, or was refused."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.access.audit import list_events
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.schemas.audit import AuditPage, AuditQuery
from service.web.schemas.problems import KEY_PROBLEMS

router = APIRouter(prefix="/v1/admin/audit", tags=["admin"])


@router.get("", responses=KEY_PROBLEMS)
def audit(app_state: AppStateDep, _: AdminDep, query: Annotated[AuditQuery, Query()]) -> AuditPage:
    """List what was changed or refused, newest first."""
    rows = list_events(app_state.database, query.filter(), limit=query.limit + 1, before=query.before)
    return AuditPage.of(rows, query.limit)
