"""Errors of answering a search.

ServiceError
└── SearchTimedOut
"""

from service.errors import ServiceError


class SearchTimedOut(ServiceError):
    """A search took longer than the server allows."""

    code = "search-timed-out"
