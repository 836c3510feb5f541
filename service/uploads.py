"""Bodies that are too large for memory: written to disk while they arrive, counted byte by byte.

The first byte over the limit ends the reading, chunked bodies included. Whatever goes wrong, the client going away
and a full disk too, no part of a file stays behind.
"""

import asyncio
import contextlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.archives import unpack
from service.errors import BodyTooLarge, EmptyBody, InvalidForm
from service.settings import Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# Small writes are gathered, since each goes to the disk through another thread.
_WRITE_BYTES = 1024 * 1024
_MAX_TEXT_BYTES = 256 * 1024
_MAX_HEADER_BYTES = 16 * 1024
# What a form needs around its file: boundaries, headers, text fields.
_FORM_OVERHEAD_BYTES = 512 * 1024
# A folder that a killed process left; no request takes so long.
_STALE_SECONDS = 24 * 3600.0
_ENDING = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class ReceivedForm:
    """A multipart form: its texts, and its files where they lie now, by the names of their fields."""

    fields: Mapping[str, str]
    files: Mapping[str, Path]
    filenames: Mapping[str, str]  # as the client calls them; "" where it says nothing


@asynccontextmanager
async def upload_folder(settings: Settings) -> AsyncIterator[Path]:
    """Give a folder for what one request sends, and remove it with all that is in it at the end."""
    folder = await asyncio.to_thread(_new_folder, settings.home / "uploads")
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def max_unpacked_bytes(settings: Settings) -> int:
    """Return how much an archive may unpack to: tables shrink well, and pictures do not."""
    return 4 * settings.max_upload_bytes


@contextmanager
def unpacked_here(archive: Path, settings: Settings) -> Iterator[Path]:
    """Unpack an archive that lies on this machine already; the folder is removed at the end. Raises InvalidArchive."""
    # A dry run makes no home folder.
    folder = _new_folder(settings.home / "uploads") if settings.home.exists() else Path(tempfile.mkdtemp())
    try:
        yield unpack_upload(archive, folder / "unpacked", settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack_upload(archive: Path, into: Path, settings: Settings) -> Path:
    """Unpack an archive within the limits of the settings; return the folder. Raises InvalidArchive."""
    unpack(archive, into, max_bytes=max_unpacked_bytes(settings), max_image_bytes=settings.max_image_bytes)
    return into


async def receive_to_file(request: Request, path: Path, limit: int) -> Path:
    """Write the body of a request to the new file `path`; return it.

    Raises BodyTooLarge past `limit` bytes, EmptyBody for none, InvalidForm when the client went away; then there is
    no such file.
    """
    async with _written(path) as file:
        async for chunk in _counted(request, limit, f"the body is larger than {limit:,} bytes"):
            file.add(chunk)
            await file.write_out()
        if file.num_bytes == 0:
            raise EmptyBody("the body is empty (0 bytes); send the file as the body")
    return path


async def receive_form(
    request: Request,
    folder: Path,
    *,
    limit: int,
    file_fields: Sequence[str],
    text_fields: Sequence[str] = (),
    is_file_needed: bool = True,
) -> ReceivedForm:
    """Write the one file of a multipart form below `folder`, under a name made of its field's and its own ending.

    A form has at most one file. Raises BodyTooLarge, and InvalidForm for a form that breaks off, has an unknown
    field, a field twice, a text for a file or a file for a text; then no file of it is left.
    """
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidForm("the form has no boundary in its Content-Type; let the client's library set that header")
    form = _FormParts(folder, file_fields, text_fields)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        too_large = f"the form is larger than {limit:,} bytes allow"
        async for chunk in _counted(request, limit + _FORM_OVERHEAD_BYTES, too_large):
            parser.write(chunk)
            await form.write_out()
        # The parser takes a form that breaks off for one with fewer fields.
        if not form.is_complete:
            raise InvalidForm("the form breaks off: its closing boundary is missing")
        return await form.received(is_file_needed)
    except FormParserError as error:
        form.discard()
        raise InvalidForm(f"the form cannot be read: {error}") from error
    except BaseException:
        form.discard()
        raise


async def _counted(request: Request, limit: int, too_large: str) -> AsyncIterator[bytes]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(too_large)
    num_bytes = 0
    try:
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > limit:
                raise BodyTooLarge(too_large)
            yield chunk
    except ClientDisconnect:
        raise InvalidForm("the client went away before the body was complete") from None


class _GrowingFile:
    """A file that is written from the event loop without stopping it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self._waiting = bytearray()
        self._file: BinaryIO | None = None
        self._is_discarded = False
        self._lock = threading.Lock()

    def add(self, chunk: bytes) -> None:
        """Take bytes that `write_out` writes."""
        self._waiting += chunk
        self.num_bytes += len(chunk)

    async def write_out(self) -> None:
        """Write what waits, if it is worth a write."""
        if len(self._waiting) >= _WRITE_BYTES:
            content, self._waiting = self._waiting, bytearray()
            await asyncio.to_thread(self._append, content)

    async def close(self) -> None:
        """Write the rest; a file without bytes is there too."""
        await asyncio.to_thread(self._append, self._waiting, is_last=True)

    def discard(self) -> None:
        """Remove the file. A write that a cancelled request left under way makes it not anew."""
        with self._lock:
            self._is_discarded = True
            if self._file is not None:
                self._file.close()
                self.path.unlink(missing_ok=True)

    def _append(self, content: bytearray, *, is_last: bool = False) -> None:
        with self._lock:
            if self._is_discarded:
                return
            if self._file is None:
                # "x": never over something that is there.
                self._file = self.path.open("xb")
            self._file.write(content)
            if is_last:
                self._file.close()


@asynccontextmanager
async def _written(path: Path) -> AsyncIterator[_GrowingFile]:
    """Give a file to write; it stays only where the block ends well."""
    file = _GrowingFile(path)
    try:
        yield file
        await file.close()
    except BaseException:
        file.discard()
        raise


class _FormParts:
    """What the parser has met so far; a field that is unknown is refused before its content arrives."""

    def __init__(self, folder: Path, file_fields: Sequence[str], text_fields: Sequence[str]) -> None:
        self.is_complete = False
        self._folder = folder
        self._file_fields = tuple(file_fields)
        self._text_fields = tuple(text_fields)
        self._headers: dict[bytes, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._part: _GrowingFile | bytearray = bytearray()  # what the present part's content is added to
        self._texts: dict[str, bytearray] = {}
        self._files: dict[str, _GrowingFile] = {}
        self._filenames: dict[str, str] = {}

    def callbacks(self) -> "MultipartCallbacks":
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._take_header(self._header_name, data[start:end]),
            "on_header_value": lambda data, start, end: self._take_header(self._header_value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": lambda data, start, end: self._take_content(data[start:end]),
            "on_end": self._end,
        }

    async def write_out(self) -> None:
        """Bring to the disk what has gathered."""
        for file in self._files.values():
            await file.write_out()

    def discard(self) -> None:
        """Remove the files."""
        for file in self._files.values():
            file.discard()

    async def received(self, is_file_needed: bool) -> ReceivedForm:
        """Close the files and return the whole form."""
        if is_file_needed and not self._files:
            wanted = " or ".join(repr(name) for name in self._file_fields)
            found = ", ".join(repr(name) for name in self._texts) or "none"
            raise InvalidForm(f"the form has no file field {wanted} (fields: {found})")
        for name, file in self._files.items():
            if file.num_bytes == 0:
                raise EmptyBody(f"the file of the field {name!r} is empty (0 bytes)")
            await file.close()
        try:
            texts = {name: content.decode() for name, content in self._texts.items()}
        except UnicodeDecodeError as error:
            raise InvalidForm(f"a text field of the form is not UTF-8: {error}") from error
        return ReceivedForm(texts, {name: file.path for name, file in self._files.items()}, self._filenames)

    def _begin_part(self) -> None:
        self._headers = {}

    def _take_header(self, header: bytearray, content: bytes) -> None:
        header += content
        if len(header) > _MAX_HEADER_BYTES:
            raise InvalidForm(f"a header in the form has more than {_MAX_HEADER_BYTES:,} bytes")

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise InvalidForm("a part of the form has no name in its Content-Disposition")
        name = options[b"name"].decode("utf-8", "replace")
        if name not in (*self._file_fields, *self._text_fields):
            known = ", ".join((*self._file_fields, *self._text_fields))
            raise InvalidForm(f"the form has an unknown field {name!r:.80}; fields are {known}")
        if name in self._files or name in self._texts:
            raise InvalidForm(f"the form has the field {name!r} twice")
        if b"filename" in options:
            self._begin_file(name, options[b"filename"].decode("utf-8", "replace"))
        elif name in self._file_fields:
            raise InvalidForm(
                f"the field {name!r} came as text, not as a file; with curl write -F {name}=@FILE, with the @"
            )
        else:
            self._part = self._texts[name] = bytearray()

    def _begin_file(self, name: str, filename: str) -> None:
        if name not in self._file_fields:
            raise InvalidForm(f"the field {name!r} came as a file, not as text; with curl write -F {name}=TEXT")
        if self._files:
            raise InvalidForm(f"the form has the files {next(iter(self._files))!r} and {name!r}; send one")
        # Of the client's name only a plain ending is kept: it is no path of ours.
        ending = Path(filename.replace("\0", "")).suffix.lower()
        path = self._folder / f"{name}{ending if _ENDING.fullmatch(ending) else ''}"
        self._part = self._files[name] = _GrowingFile(path)
        self._filenames[name] = filename

    def _take_content(self, content: bytes) -> None:
        if isinstance(self._part, _GrowingFile):
            self._part.add(content)
            return
        self._part += content
        if len(self._part) > _MAX_TEXT_BYTES:
            raise InvalidForm(f"a text field of the form has more than {_MAX_TEXT_BYTES:,} bytes; send it as a file")

    def _end(self) -> None:
        self.is_complete = True


def _new_folder(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    # What processes that were killed left behind goes first.
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    # On the disk of the pictures, not in /tmp, which is often small and held in memory.
    return Path(tempfile.mkdtemp(prefix="upload-", dir=root))
