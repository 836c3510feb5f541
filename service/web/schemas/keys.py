"""Keys over HTTP."""

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.access.errors import InvalidKeyRequest
from service.access.keys import key_state, old_secret_until
from service.storage.database import in_utc, now
from service.storage.tables.access import APIKey
from service.web.schemas.moments import Moment

KEYS_PATH = "/v1/admin/keys"
DEFAULT_GRACE_SECONDS = 24 * 60 * 60
MAX_GRACE_SECONDS = 90 * 24 * 60 * 60
MAX_EXPIRY_DAYS = 100 * 366


class KeyRequest(BaseModel):
    """A key to create."""

    # A misspelt time of expiry would create a key that never expires.
    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="1 to 64 letters, digits and . _ -, beginning with a letter or digit.")
    scopes: list[str] = Field(description="search, catalogue:write, admin; admin includes the others.")
    expires_at: Moment | None = Field(None, description="When the key expires (ISO 8601; UTC if it has no zone).")
    expires_in_days: int | None = Field(
        None, ge=1, le=MAX_EXPIRY_DAYS, description="Or in how many days the key expires."
    )

    def expiry(self) -> datetime | None:
        """Return when the key expires, None for never; raises InvalidKeyRequest if both fields are given."""
        if self.expires_in_days is None:
            return self.expires_at
        if self.expires_at is not None:
            raise InvalidKeyRequest("expires_at and expires_in_days are both given; give one")
        return now() + timedelta(days=self.expires_in_days)


class RotateRequest(BaseModel):
    """How to rotate a key."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: int = Field(
        DEFAULT_GRACE_SECONDS,
        ge=0,
        le=MAX_GRACE_SECONDS,
        description="How long the old secret stays valid; 0 ends it at once.",
    )
    expires_at: Moment | None = Field(None, description="When the key expires; unchanged if not given.")


class KeyView(BaseModel):
    """A key without its secret, of which only the hash is stored."""

    name: str
    id: str
    scopes: list[str]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str | None = Field(description="null if the first start created the key.")
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Stored once a minute.")
    old_secret_until: datetime | None = Field(description="Until when the secret that a rotation replaced stays valid.")

    @classmethod
    def of(cls, row: APIKey) -> "KeyView":
        """Return the view of a row."""
        return cls(**_facts(row))


class NewKey(KeyView):
    """A key that was created or rotated, with its secret, which is shown only once."""

    key: str = Field(description="Shown only once; send it as Authorization: Bearer KEY, or X-API-Key: KEY.")

    @classmethod
    def with_key(cls, row: APIKey, key: str) -> "NewKey":
        """Return the view of a row, with the key."""
        return cls(**_facts(row), key=key)


class KeyList(BaseModel):
    """Keys, oldest first."""

    keys: list[KeyView]
    next: str | None = Field(description="`after` of the next page; null on the last page.")


def _facts(row: APIKey) -> dict[str, Any]:
    return {
        "name": row.name,
        "id": row.id,
        "scopes": list(row.scopes),
        "state": key_state(row),
        "created_at": in_utc(row.created_at),
        "created_by": row.created_by,
        "expires_at": in_utc(row.expires_at),
        "revoked_at": in_utc(row.revoked_at),
        "last_used_at": in_utc(row.last_used_at),
        "old_secret_until": old_secret_until(row),
    }
