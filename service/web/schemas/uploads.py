"""Uploads of labels and catalogues as they go over HTTP: options, problems, and rows that failed."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.web.schemas.problems import KEY_PROBLEMS, Problem

_NUM_SHOWN_ERRORS = 100

FIRST_ERRORS = f"The first {_NUM_SHOWN_ERRORS} of the rows that failed."

UPLOAD_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    408: {"model": Problem, "description": "The body paused for too long."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The content type is not supported."},
    422: {"model": Problem, "description": "The body, the archive or all of its rows are invalid; nothing changed."},
    503: {"model": Problem, "description": "The image store or the database does not respond."},
    507: {"model": Problem, "description": "The disk is full; rows that were already written remain complete."},
}


class UploadOptions(BaseModel):
    """Query parameters of an upload; an unknown name is refused, since a misspelt dry_run would write."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, description="Read and check everything, write nothing.")


class RowProblem(BaseModel):
    """A row that could not be used, and the reason."""

    location: str
    message: str


def row_problems(errors: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the first errors of a report in a form that JSON can represent."""
    # A file name in an archive may not be valid UTF-8.
    return [
        {name: text.encode("utf-8", "backslashreplace").decode() for name, text in error.items()}
        for error in errors[:_NUM_SHOWN_ERRORS]
    ]
