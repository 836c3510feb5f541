"""What can go wrong with a release.

ServiceError
└── ReleaseError
    ├── NoActiveRelease
    ├── ReleaseNotFound
    ├── InvalidRelease      a release whose files are damaged or do not fit together
    ├── NoPreviousRelease   there is nothing to roll back to
    ├── ReleaseInUse        a release that is served, or is needed by an operation
    ├── BuilderBusy         another process writes a release
    └── ActivationConflict  somebody else activated a release in between
"""

from service.errors import ServiceError


class ReleaseError(ServiceError):
    """Something is wrong with a release."""

    code = "release-error"


class NoActiveRelease(ReleaseError):
    """Nothing is served yet."""

    code = "no-active-release"


class ReleaseNotFound(ReleaseError):
    """No release has this id."""

    code = "release-not-found"


class InvalidRelease(ReleaseError):
    """A release's files are damaged or do not fit together."""

    code = "invalid-release"


class NoPreviousRelease(ReleaseError):
    """There is no release to roll back to."""

    code = "no-previous-release"


class ReleaseInUse(ReleaseError):
    """A release is served, or an operation needs it."""

    code = "release-in-use"


class BuilderBusy(ReleaseError):
    """Another process writes a release at this moment."""

    code = "builder-busy"


class ActivationConflict(ReleaseError):
    """Another release was activated in between."""

    code = "activation-conflict"
