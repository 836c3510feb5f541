"""Errors of evaluations.

ServiceError
├── EvaluationNotFound  there is no such evaluation, or its files cannot be read
└── NotComparable       the evaluations are of different sets of queries
"""

from service.errors import ServiceError


class EvaluationNotFound(ServiceError):
    """There is no such evaluation, or its files cannot be read."""

    code = "evaluation-not-found"


class NotComparable(ServiceError):
    """The evaluations are of different sets of queries."""

    code = "not-comparable"
