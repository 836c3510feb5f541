"""What can go wrong with keys and scopes.

ServiceError
├── AccessError
│   ├── MissingKey         a route that needs a key was asked without one
│   ├── InvalidKey         the key is not known here
│   ├── ExpiredKey
│   ├── RevokedKey
│   ├── InsufficientScope  the key is good, but not for this
│   ├── KeyInAddress       a key in the query string, where logs keep it
│   └── KeysUnavailable    keys cannot be checked at present
├── KeyNotFound            no key has this name or id
├── KeyNameTaken
├── LastAdminKey           without it nobody could use the admin routes
└── InvalidKeyRequest      a key that cannot be made so
"""

from service.errors import ServiceError


class AccessError(ServiceError):
    """A route may not be used by who asks."""

    code = "access-error"


class MissingKey(AccessError):
    """A key is needed and none came."""

    code = "missing-key"


class InvalidKey(AccessError):
    """The key that came is not known."""

    code = "invalid-key"


class ExpiredKey(AccessError):
    """The time of a key is over."""

    code = "expired-key"


class RevokedKey(AccessError):
    """A key was taken back."""

    code = "revoked-key"


class InsufficientScope(AccessError):
    """A key may not be used for this."""

    code = "insufficient-scope"


class KeyInAddress(AccessError):
    """A key stands in the address, which logs and histories keep."""

    code = "key-in-address"


class KeysUnavailable(AccessError):
    """Keys cannot be checked at present."""

    code = "keys-unavailable"


class KeyNotFound(ServiceError):
    """No key has this name or id."""

    code = "key-not-found"


class KeyNameTaken(ServiceError):
    """Another key has the name."""

    code = "key-name-taken"


class LastAdminKey(ServiceError):
    """A key is the only one to the admin routes."""

    code = "last-admin-key"


class InvalidKeyRequest(ServiceError):
    """A key is asked for that cannot be made so."""

    code = "invalid-key-request"
