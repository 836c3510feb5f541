"""Names of columns: how they may be written, and which are known.

An unknown name is an error, since a misspelt column would otherwise be lost silently.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from training.datasets.files import short

ATTRIBUTE_PREFIX = "attributes."
_INVISIBLE_ENDS = "\ufeff\u200b\u2060"
# Longer names are in no list of columns; normalising them would take time and memory.
_MAX_COMPARED = 300
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Columns:
    """The allowed column names, besides `attributes.NAME` with `has_attributes`."""

    names: tuple[str, ...]
    aliases: Mapping[str, str]
    needed: tuple[tuple[str, ...], ...]  # a CSV file needs one column of each tuple
    has_attributes: bool = True

    def known(self, name: str) -> str:
        """Return the column name for a name or its alias.

        Case and spaces around a name are ignored, and spaces and hyphens within it stand for underscores.
        """
        if name in self.names or len(name) > _MAX_COMPARED:
            return name
        text, key = _text_and_key(name)
        if key in self.names:
            return key
        if key in self.aliases:
            return self.aliases[key]
        if self.has_attributes and key.startswith(ATTRIBUTE_PREFIX):
            return ATTRIBUTE_PREFIX + text[len(ATTRIBUTE_PREFIX) :].strip()
        return text

    def has_needed(self, names: Collection[str]) -> bool:
        """Return whether a table with these columns has all that are needed."""
        return all(any(name in names for name in alternatives) for alternatives in self.needed)

    def problem_of(self, names: Sequence[str]) -> str | None:
        """Return a message about the first unknown or repeated name, if any."""
        seen: set[str] = set()
        for name in names:
            if not self._is_known(name):
                return f"an unknown column {short(name)}{self._hint(name)}"
            if name in seen:
                return f"two columns {short(name)}"
            seen.add(name)
        return None

    def _is_known(self, name: str) -> bool:
        return name in self.names or (self.has_attributes and name.startswith(ATTRIBUTE_PREFIX))

    def _hint(self, name: str) -> str:
        close = difflib.get_close_matches(name[:_MAX_COMPARED].casefold(), (*self.names, *self.aliases), n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        kept = (
            f", and {ATTRIBUTE_PREFIX}{name[:_MAX_SHOWN] or 'NAME'} would keep it as an attribute"
            if self.has_attributes
            else ""
        )
        return f"; columns are {', '.join(self.names)}{kept}{meant}"


@lru_cache(maxsize=1024)
def _text_and_key(name: str) -> tuple[str, str]:
    """Return a name without spaces around it, and in the form in which names are compared."""
    text = unicodedata.normalize("NFC", name).strip().strip(_INVISIBLE_ENDS).strip()
    return text, re.sub(r"[\s-]+", "_", text.casefold())
