"""Errors of the database and the image store.

ServiceError
├── DatabaseError
│   ├── DatabaseUnavailable   the database does not answer
│   │   └── DatabaseFull      its disk is full: it can be read, not written to; also a StorageFull
│   └── DatabaseVersionError  the tables have another revision than this version of Akin needs
├── MediaError                a stored image is missing or damaged, or the store does not answer
└── StorageFull               see service.errors
"""

from service.errors import ServiceError, StorageFull


class DatabaseError(ServiceError):
    """The database cannot be used."""

    code = "database-error"


class DatabaseUnavailable(DatabaseError):
    """The database does not answer; the message leaves out what the driver says, `reason` has it."""

    code = "database-unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__("the database cannot be used at present; try again in a moment (the log has the reason)")
        self._reason = reason

    @property
    def reason(self) -> str:
        """What the driver says; names host and user."""
        return self._reason


class DatabaseVersionError(DatabaseError):
    """The tables have another revision than is needed, and may not be migrated."""

    code = "database-version-error"


class DatabaseFull(StorageFull, DatabaseUnavailable):
    """The disk of the database is full; reading still works."""

    code = "storage-full"

    def __init__(self, reason: str) -> None:
        # The constructor of DatabaseUnavailable would replace the message.
        Exception.__init__(self, "the disk of the database is full, and nothing was written")
        self._reason = reason


class MediaError(ServiceError):
    """A stored image is missing or damaged, or the store does not answer."""

    code = "media-error"
