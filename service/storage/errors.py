"""What can go wrong with rows and bytes.

ServiceError
├── DatabaseError             the database cannot be used
│   ├── DatabaseUnavailable   it does not answer
│   └── DatabaseVersionError  it has another version than this Akin needs
└── MediaError                a stored image is missing or damaged, or the store does not answer
StorageFull
└── DatabaseFull              that of the database, which is DatabaseUnavailable for what is to be written
"""

from service.errors import ServiceError, StorageFull


class DatabaseError(ServiceError):
    """The database cannot be used."""

    code = "database-error"


class DatabaseUnavailable(DatabaseError):
    """The database does not answer; the message hides the driver's words, `reason` has them."""

    code = "database-unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__("the database cannot be used at present; ask again in a moment (the log has the reason)")
        self._reason = reason

    @property
    def reason(self) -> str:
        """What the database driver said; names host and user."""
        return self._reason


class DatabaseVersionError(DatabaseError):
    """The database has another version than is needed, and it is not to be changed by that."""

    code = "database-version-error"


class DatabaseFull(StorageFull, DatabaseUnavailable):
    """The disk of the database has no space left; what is in it can be read."""

    code = "storage-full"

    def __init__(self, reason: str) -> None:
        # The other base would put its own words in place of these.
        Exception.__init__(self, "the disk of the database is full, and nothing was written")
        self._reason = reason


class MediaError(ServiceError):
    """A stored image is missing or damaged, or the store does not answer."""

    code = "media-error"
