"""Errors, as problem JSON."""

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable, unlike the text."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None


KEY_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The key is missing, unknown, expired or revoked."},
    403: {"model": Problem, "description": "The key lacks the scope."},
}
