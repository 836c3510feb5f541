"""Errors as they go over HTTP."""

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable: switch on it, not on the text."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None


KEY_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No key, or one that is not known, has expired or was revoked."},
    403: {"model": Problem, "description": "The key has not the scope."},
}
