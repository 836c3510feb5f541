"""Errors of keys and scopes.

ServiceError
├── AccessError
│   ├── MissingKey         the request has no key
│   ├── InvalidKey         the key is unknown
│   ├── ExpiredKey
│   ├── RevokedKey
│   ├── InsufficientScope  the key is valid but lacks the scope
│   ├── KeyInAddress       the URL contains a key
│   └── KeysUnavailable    the key is unknown here, and the database does not answer
├── KeyNotFound            no key has this name or id
├── KeyNameTaken
├── LastAdminKey           no other key has the scope admin
└── InvalidKeyRequest      a key cannot be created or rotated as requested
"""

from service.errors import ServiceError


class AccessError(ServiceError):
    """The sender of a request may not use the route."""

    code = "access-error"


class MissingKey(AccessError):
    """The route needs a key, and the request has none."""

    code = "missing-key"


class InvalidKey(AccessError):
    """The key of the request is unknown."""

    code = "invalid-key"


class ExpiredKey(AccessError):
    """The key has expired, or was replaced by a rotation."""

    code = "expired-key"


class RevokedKey(AccessError):
    """The key was revoked."""

    code = "revoked-key"


class InsufficientScope(AccessError):
    """The key lacks the scope that the route needs."""

    code = "insufficient-scope"


class KeyInAddress(AccessError):
    """The URL contains a key, and URLs are kept in logs and histories."""

    code = "key-in-address"


class KeysUnavailable(AccessError):
    """A key is unknown to this process, and the database does not answer."""

    code = "keys-unavailable"


class KeyNotFound(ServiceError):
    """No key has this name or id."""

    code = "key-not-found"


class KeyNameTaken(ServiceError):
    """Another key has the name."""

    code = "key-name-taken"


class LastAdminKey(ServiceError):
    """The key is the only one with the scope admin."""

    code = "last-admin-key"


class InvalidKeyRequest(ServiceError):
    """A key cannot be created or rotated as requested."""

    code = "invalid-key-request"
