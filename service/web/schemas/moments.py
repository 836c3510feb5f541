"""Times as they go over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator

from service.storage.database import in_utc


def _utc(moment: datetime) -> datetime:
    try:
        return in_utc(moment)
    except OverflowError:
        raise ValueError("the time lies beyond the years 1 to 9999") from None


# ISO 8601; without a zone it is in UTC, whatever the clock of the server says.
Moment = Annotated[datetime, AfterValidator(_utc)]
