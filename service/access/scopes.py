"""Scopes, and the actors that hold them."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

# The actor of a command whose user is unknown.
COMMAND_LINE = "command line"


class Scope(StrEnum):
    """A right that a key grants; `admin` includes all others."""

    SEARCH = "search"
    CATALOGUE_WRITE = "catalogue:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sent a request: a key, by its name. `key_id` is None for the key of the settings and for `ANYBODY`."""

    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether the actor holds `scope`."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


# The actor of a search without a key, where searching is public.
ANYBODY = Actor("anybody", frozenset({Scope.SEARCH}))


def parse_scopes(names: Iterable[str]) -> list[Scope]:
    """Return the named scopes, each once, in the order of `Scope`; raises ValueError for an unknown name."""
    wanted = set(names)
    known = {scope.value for scope in Scope}
    if unknown := sorted(wanted - known):
        raise ValueError(f"there is no scope {unknown[0]!r}; scopes are {', '.join(Scope)}")
    return [scope for scope in Scope if scope.value in wanted]
