"""Find keys inside other text, such as a URL, and mask them before the text is logged or stored."""

import re
from urllib.parse import unquote

from pydantic import SecretStr

KEY_PREFIX = "akin_"  # lets a scanner find a key that was committed by mistake
WITH_A_KEY = "(with a key)"  # replaces a text out of which the key cannot be cut

# Keys as `create_key` and deploy/make-secrets.sh make them, also when cut short or joined to other text.
_KEY = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9_-]{{32,}}")


def has_key(text: str, admin_key: SecretStr | None = None) -> bool:
    """Return whether a text, as it is or percent-decoded, contains a key or the admin key of the settings."""
    secret = admin_key.get_secret_value() if admin_key else None
    return any(_KEY.search(form) or (secret and secret in form) for form in (text, unquote(text)))


def without_keys(text: str, admin_key: SecretStr | None = None, *, instead: str = WITH_A_KEY) -> str:
    """Return a text with each key masked, or `instead` where a key in the text is percent-encoded."""
    masked = text.replace(admin_key.get_secret_value(), "***") if admin_key else text
    masked = _KEY.sub(f"{KEY_PREFIX}***", masked)
    return instead if has_key(masked, admin_key) else masked
