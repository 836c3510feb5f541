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
    secrets = _forms_of(admin_key)
    return any(_KEY.search(form) or any(secret in form for secret in secrets) for form in (text, unquote(text)))


def without_keys(text: str, admin_key: SecretStr | None = None, *, instead: str = WITH_A_KEY) -> str:
    """Return a text with each key masked, or `instead` where a key in the text is percent-encoded."""
    masked = text
    for secret in _forms_of(admin_key):
        masked = masked.replace(secret, "***")
    masked = _KEY.sub(f"{KEY_PREFIX}***", masked)
    return instead if has_key(masked, admin_key) else masked


def _forms_of(admin_key: SecretStr | None) -> tuple[str, ...]:
    """Return the admin key, and the form that servers decode it to if it contains percent signs."""
    secret = admin_key.get_secret_value() if admin_key else ""
    return tuple(dict.fromkeys(form for form in (secret, unquote(secret)) if form))
