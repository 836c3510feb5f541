"""What a key may be used for."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

# The actor of a command that names nobody else.
COMMAND_LINE = "command line"


class Scope(StrEnum):
    """A right that a key carries; `admin` has all others in it."""

    SEARCH = "search"
    CATALOGUE_WRITE = "catalogue:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: a key, by its name. `key_id` is None for the key of the settings, and for nobody in particular."""

    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """Say whether the key is good for `scope`."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


# Who searches where searching is public.
ANYBODY = Actor("anybody", frozenset({Scope.SEARCH}))


def parse_scopes(names: Iterable[str]) -> list[Scope]:
    """Return scopes by their names, each once, in the order of `Scope`; raises ValueError naming an unknown one."""
    wanted = set(names)
    known = {scope.value for scope in Scope}
    if unknown := sorted(wanted - known):
        raise ValueError(f"there is no scope {unknown[0]!r}; scopes are {', '.join(Scope)}")
    return [scope for scope in Scope if scope.value in wanted]
