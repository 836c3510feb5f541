"""Errors of the demo.

ServiceError
├── DemoError                the demo cannot run, or its recall is too low
└── SampleDirectoryNotEmpty  the directory for the sample catalogue is in use
"""

from service.errors import ServiceError


class DemoError(ServiceError):
    """The demo cannot run, or its recall is too low."""

    code = "demo-error"


class SampleDirectoryNotEmpty(ServiceError):
    """The directory for the sample catalogue exists and is not empty."""

    code = "sample-directory-not-empty"
