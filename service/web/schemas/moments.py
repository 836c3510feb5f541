"""Times in requests."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator

from service.storage.database import in_utc


def _utc(moment: datetime) -> datetime:
    try:
        return in_utc(moment)
    except OverflowError:
        raise ValueError("the time is outside the years 1 to 9999") from None


# ISO 8601; a time without a zone is in UTC, whatever the zone of the server.
Moment = Annotated[datetime, AfterValidator(_utc)]
