"""An open installation of Akin: settings, database and image store."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedding.decoding import DecodingLimits
from service.errors import InvalidSetting
from service.installation.settings import Settings
from service.storage.database import Database, open_database
from service.storage.media import MediaStore


@dataclass(frozen=True, slots=True)
class Installation:
    """The parts of an installation that functions of all rooms work on."""

    settings: Settings
    database: Database
    media_store: MediaStore

    @property
    def limits(self) -> DecodingLimits:
        """Limits on images, for imports and queries."""
        return DecodingLimits(self.settings.max_image_bytes, self.settings.max_image_pixels)


@contextmanager
def open_installation(settings: Settings) -> Iterator[Installation]:
    """Open database and image store; creates the home folder if needed."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"AKIN_HOME={settings.home} cannot be used: {error.strerror}") from error
    media_store = MediaStore(settings.media_address)
    database = open_database(settings.database_address, may_migrate=settings.auto_migrate)
    try:
        yield Installation(settings, database, media_store)
    finally:
        database.close()


@contextmanager
def open_for_dry_run(settings: Settings) -> Iterator[Installation]:
    """Open the installation for a dry run: if it does not exist, an empty temporary one instead of it."""
    if settings.home.exists() or settings.database_url:
        with open_installation(settings) as installation:
            yield installation
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = settings.model_copy(update={"home": Path(folder), "auto_migrate": True})
        with open_installation(temporary) as installation:
            yield installation
