"""What can go wrong with evaluations.

ServiceError
├── EvaluationNotFound
└── NotComparable       two evaluations on different sets of queries
"""

from service.errors import ServiceError


class EvaluationNotFound(ServiceError):
    """No evaluation has this id."""

    code = "evaluation-not-found"


class NotComparable(ServiceError):
    """Two evaluations are of different sets of queries."""

    code = "not-comparable"
