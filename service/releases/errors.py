"""Errors of releases.

ServiceError
└── ReleaseError
    ├── NoActiveRelease
    ├── ReleaseNotFound
    ├── InvalidRelease      files are damaged or do not match each other
    ├── NoPreviousRelease   there is nothing to roll back to
    ├── BuilderBusy         another process is writing a release
    └── ActivationConflict  another release was activated in the meantime
"""

from service.errors import ServiceError


class ReleaseError(ServiceError):
    """Base class of the errors of releases."""

    code = "release-error"


class NoActiveRelease(ReleaseError):
    """No release is active."""

    code = "no-active-release"


class ReleaseNotFound(ReleaseError):
    """No release has this id."""

    code = "release-not-found"


class InvalidRelease(ReleaseError):
    """The files of a release are damaged or do not match each other."""

    code = "invalid-release"


class NoPreviousRelease(ReleaseError):
    """There is no release to roll back to."""

    code = "no-previous-release"


class BuilderBusy(ReleaseError):
    """Another process is writing a release."""

    code = "builder-busy"


class ActivationConflict(ReleaseError):
    """Another release was activated in the meantime."""

    code = "activation-conflict"
