"""What can go wrong with a process of an installation.

ServiceError
└── PortInUse
"""

from service.errors import ServiceError


class PortInUse(ServiceError):
    """Another process listens on the port."""

    code = "port-in-use"
