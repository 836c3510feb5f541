"""The first value that a source gives for each key, kept out of memory however many rows the source has."""

import sqlite3
from contextlib import closing
from types import TracebackType

from service.errors import StorageFull


class FirstValues:
    """Values by kind and key, each with its location, in a temporary file that is removed when this is closed."""

    def __init__(self) -> None:
        # The empty name: a file that SQLite creates when its cache is full, and that has no name afterwards.
        self._connection = sqlite3.connect("", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE first_values (kind TEXT, key TEXT, location BLOB, value TEXT, PRIMARY KEY (kind, key)) "
            "WITHOUT ROWID",
            "BEGIN",
        ):
            self._connection.execute(statement).close()

    def __enter__(self) -> "FirstValues":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def first(self, kind: str, key: str, location: str, value: str | None) -> tuple[str, str | None]:
        """Return the location and value of the first call with this kind and key, which may be this one.

        Raises StorageFull.
        """
        with closing(self._connection.cursor()) as cursor:
            found = cursor.execute(
                "SELECT location, value FROM first_values WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
            if found is not None:
                return found[0].decode("utf-8", "surrogatepass"), found[1]
            try:
                # The location may be the name of a file in any encoding.
                cursor.execute(
                    "INSERT INTO first_values VALUES (?, ?, ?, ?)",
                    (kind, key, location.encode("utf-8", "surrogatepass"), value),
                )
            except sqlite3.OperationalError as error:
                raise StorageFull(f"the disk of temporary files is full: {error}") from error
        return location, value

    def is_new(self, kind: str, key: str) -> bool:
        """Return whether this is the first call with this kind and key."""
        with closing(self._connection.cursor()) as cursor:
            return (
                cursor.execute("INSERT OR IGNORE INTO first_values VALUES (?, ?, '', NULL)", (kind, key)).rowcount == 1
            )
