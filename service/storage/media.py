"""The store of image bytes: content-addressed, so that an image is stored once and never changes under its name."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import fsspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from embedding.image_format import MEDIA_TYPES
from embedding.whole_files import write_all_whole, write_whole
from service.errors import InvalidSetting, StorageFull, is_disk_full
from service.storage.address import shown_media_address, without_credentials
from service.storage.errors import MediaError

log = structlog.get_logger(__name__)

# An object store answers one request after tens of milliseconds, but many at the same time.
_READERS_OBJECT_STORE = 16
_READERS_LOCAL = 2

_NAME = re.compile(rf"(?P<sha256>[0-9a-f]{{64}})\.(?P<extension>{'|'.join(MEDIA_TYPES)})")


class _FileSystem(Protocol):
    """The part of fsspec's interface used here."""

    def cat_file(self, path: str) -> bytes: ...
    def pipe_file(self, path: str, value: bytes) -> None: ...
    def exists(self, path: str) -> bool: ...
    def makedirs(self, path: str, exist_ok: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class MediaName:
    """Name of a stored image: the hash of its bytes and the file extension of its format."""

    sha256: str
    extension: str

    def __str__(self) -> str:
        return f"{self.sha256}.{self.extension}"

    @property
    def media_type(self) -> str:
        """The content type to serve the image with."""
        return MEDIA_TYPES[self.extension]

    @classmethod
    def parse(cls, text: str) -> "MediaName | None":
        """Parse the text form; None if the text is not one (a path, an unknown extension, ...)."""
        match = _NAME.fullmatch(text)
        return cls(match["sha256"], match["extension"]) if match else None


class MediaStore:
    """Images by name, in a folder or at any fsspec URL ("s3://bucket/images", ...).

    Raises MediaError if the store does not answer, or an image is missing or does not match its name.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.address_shown = shown_media_address(address)
        file_system, root = self._open()
        self._is_local = isinstance(file_system, LocalFileSystem)
        self._file_system = cast(_FileSystem, file_system)
        self._root = str(root).rstrip("/")
        self.num_readers = self._choose_num_readers(file_system)

    def _open(self) -> tuple[object, str]:
        if "://" not in self._address:
            # A path is not a URL: fsspec would read `::` in it as a chain of file systems.
            return LocalFileSystem(), str(Path(self._address).absolute())
        try:
            file_system, root = fsspec.core.url_to_fs(self._address)
        except (ValueError, ImportError) as error:
            raise InvalidSetting(f"AKIN_MEDIA_URL={self.address_shown} cannot be used: {self._reason(error)}") from None
        return file_system, str(root)

    def _choose_num_readers(self, file_system: object) -> int:
        """Return how many threads should call `get` at once to read many images."""
        if self._is_local:
            return _READERS_LOCAL
        # Drivers with an event loop have a connection per request; others, such as FTP, may share a single one.
        return _READERS_OBJECT_STORE if getattr(file_system, "async_impl", False) else 1

    def _reason(self, error: Exception) -> str:
        return without_credentials(str(error) or type(error).__name__, self._address)

    def _failure(self, what: str, error: Exception) -> MediaError:
        # Raised without its cause, whose text may contain credentials and would reach the log with a traceback.
        return MediaError(f"{what}: {self._reason(error)}")

    def put(self, name: MediaName, image_bytes: bytes) -> None:
        """Store an image unless it is stored already. Raises StorageFull too."""
        self.put_all({name: image_bytes})

    def put_all(self, images: Mapping[MediaName, bytes]) -> None:
        """Store those images that are not stored yet, together faster than one by one. Raises StorageFull too."""
        try:
            missing = [name for name in images if not self._file_system.exists(self._path(name))]
            if self._is_local:
                if missing:
                    write_all_whole({Path(self._path(name)): images[name] for name in missing})
                return
            for name in missing:
                # Object stores only show complete objects.
                path = self._path(name)
                self._file_system.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._file_system.pipe_file(path, images[name])
        except Exception as error:  # the drivers of fsspec raise errors of their own
            if isinstance(error, OSError) and is_disk_full(error):
                log.error("storage_full", reason=str(error))
                raise StorageFull("the disk of the images is full, and not all of them could be stored") from error
            raise self._failure(f"the image cannot be stored under {self.address_shown}", error) from None

    def get(self, name: MediaName) -> bytes:
        """Return the bytes of an image after checking them against its name."""
        try:
            image_bytes = self._file_system.cat_file(self._path(name))
        except FileNotFoundError:
            raise MediaError(f"image {name} is not in the store at {self.address_shown}; import it again") from None
        except Exception as error:  # noqa: BLE001 - the drivers of fsspec raise errors of their own
            raise self._failure(f"image {name} cannot be read from {self.address_shown}", error) from None
        if hashlib.sha256(image_bytes).hexdigest() != name.sha256:
            raise MediaError(
                f"image {name} in {self.address_shown} was changed; delete the file and import the image again"
            )
        return image_bytes

    def local_file(self, name: MediaName, cache_dir: Path) -> Path:
        """Return a local file of the image: the stored file itself, or a copy in `cache_dir`.

        For training, which reads files. A copy never becomes stale, since images never change under their names.
        """
        if self._is_local:
            return Path(self._path(name))
        path = cache_dir / name.sha256[:2] / str(name)
        if not path.exists():
            write_whole(path, self.get(name))
        return path

    def _path(self, name: MediaName) -> str:
        # Folders by the first two digits keep each folder small.
        return f"{self._root}/{name.sha256[:2]}/{name}"
