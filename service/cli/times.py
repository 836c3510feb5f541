"""Times in command-line options."""

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d{1,9})([smhdw])")


def parse_duration(text: str, option: str) -> timedelta:
    """Return a duration such as 90d, 24h, 30m or 0; raises InvalidParameter naming the option."""
    from service.errors import InvalidParameter

    if text == "0":
        return timedelta(0)
    if found := _DURATION.fullmatch(text):
        try:
            return timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            pass
    raise InvalidParameter(f"{option} {text}: write a number and a unit, such as 90d, 24h or 30m")


def parse_moment(text: str, option: str, *, sign: int) -> datetime:
    """Return a time in UTC from a date, a time, or a duration after (`sign` 1) or before (-1) now."""
    from service.errors import InvalidParameter
    from service.storage.database import in_utc

    try:
        if _DURATION.fullmatch(text):
            return datetime.now(UTC) + sign * parse_duration(text, option)
        return in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise InvalidParameter(
            f"{option} {text}: write a day such as 2027-01-31, a time such as 2027-01-31T10:00:00Z, or 90d, 24h, 30m"
        ) from None
