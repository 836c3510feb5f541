"""Keys and the audit log as they go over HTTP."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.access.keys import key_state, previous_good_until
from service.storage.database import in_utc
from service.storage.tables.access import APIKey
from service.web.schemas.moments import Moment

KEYS_PATH = "/v1/admin/keys"
DEFAULT_GRACE_SECONDS = 24 * 60 * 60
MAX_GRACE_SECONDS = 90 * 24 * 60 * 60
MAX_EXPIRY_DAYS = 100 * 366


class KeyRequest(BaseModel):
    """A key to be made."""

    # A misspelt time of expiry would make a key that never ends.
    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="1 to 64 letters, digits and . _ -, the first a letter or digit.")
    scopes: list[str] = Field(description="search, catalogue:write, admin; the last has the others in it.")
    expires_at: Moment | None = Field(None, description="When it ends, ISO 8601; UTC where no zone is named.")
    expires_in_days: int | None = Field(None, ge=1, le=MAX_EXPIRY_DAYS, description="Or in how many days.")


class RotateRequest(BaseModel):
    """A key that is to have a new secret."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: int = Field(
        DEFAULT_GRACE_SECONDS,
        ge=0,
        le=MAX_GRACE_SECONDS,
        description="How long the old one is good yet; 0: not at all.",
    )
    expires_at: Moment | None = Field(None, description="When the key ends; by default as it was.")


class KeyView(BaseModel):
    """A key, without itself: only its hash is kept, and that is nobody's business."""

    name: str
    id: str
    scopes: list[str]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str | None = Field(description="None: the first start made it.")
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Written once a minute.")
    old_secret_until: datetime | None = Field(description="Until when what a rotation replaced is good yet.")

    @classmethod
    def of(cls, row: APIKey) -> "KeyView":
        """Describe a row."""
        return cls(**_facts(row))


class NewKey(KeyView):
    """A key that was made or rotated, with itself, this once."""

    key: str = Field(description="Shown this once; send it as Authorization: Bearer, or X-API-Key.")

    @classmethod
    def with_key(cls, row: APIKey, key: str) -> "NewKey":
        """Describe a row, and show the key."""
        return cls(**_facts(row), key=key)


class KeyList(BaseModel):
    """All keys, the oldest first."""

    keys: list[KeyView]


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
        "old_secret_until": previous_good_until(row),
    }
