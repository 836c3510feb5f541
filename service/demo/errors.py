"""What can go wrong with the demo.

ServiceError
├── DemoError                the demo cannot run, or found too little
└── SampleDirectoryNotEmpty
"""

from service.errors import ServiceError


class DemoError(ServiceError):
    """The demo cannot run, or its search found too little."""

    code = "demo-error"


class SampleDirectoryNotEmpty(ServiceError):
    """The sample catalogue would be written over something else."""

    code = "sample-directory-not-empty"
