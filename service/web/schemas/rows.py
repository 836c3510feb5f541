"""Rows that could not be used, as they go over HTTP."""

from pydantic import BaseModel

_MOST_ERRORS = 100


FIRST_ERRORS = f"The first {_MOST_ERRORS} of the rows that failed."


class RowProblem(BaseModel):
    """A row that could not be used, and why."""

    location: str
    message: str


def row_problems(errors: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the first errors of a report as JSON can hold them."""
    # A name of an old archive may be no text, which JSON cannot hold.
    return [
        {name: text.encode("utf-8", "backslashreplace").decode() for name, text in error.items()}
        for error in errors[:_MOST_ERRORS]
    ]
