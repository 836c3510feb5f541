"""Errors of the processes of an installation.

ServiceError
└── PortInUse  a port cannot be listened on
"""

from service.errors import ServiceError


class PortInUse(ServiceError):
    """A port is in use, or cannot be listened on."""

    code = "port-in-use"
