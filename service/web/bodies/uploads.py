"""Bodies that are too large for memory: written to disk while they arrive, counted byte by byte.

Whatever goes wrong, the client going away and a full disk too, no part of a file stays behind.
"""

import asyncio
import contextlib
import re
import shutil
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request

from service.catalogue.unpacking import new_upload_folder
from service.installation.settings import Settings
from service.web.bodies.forms import FormParts
from service.web.errors import EmptyBody
from service.web.middleware.body_guard import read_chunks

# Small writes are gathered, since each goes to the disk through another thread.
_WRITE_BYTES = 1024 * 1024
# What a form needs around its file: boundaries, headers, text fields.
_FORM_OVERHEAD_BYTES = 512 * 1024
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
    folder = await asyncio.to_thread(new_upload_folder, settings.home / "uploads")
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def receive_to_file(request: Request, path: Path, limit: int) -> Path:
    """Write the body of a request to the new file `path`; return it.

    Raises BodyTooLarge past `limit` bytes, BodyTooSlow, ClientLeft, EmptyBody for none; then there is no such file.
    """
    async with _written(path) as file:
        async for chunk in read_chunks(request, limit, f"the body is larger than {limit:,} bytes", may_pause=True):
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

    A form has at most one file. Raises BodyTooLarge, BodyTooSlow, ClientLeft, and InvalidForm for a form that breaks
    off, has an unknown field, a field twice, a text for a file or a file for a text; then no file of it is left.
    """
    form = FormParts(
        request.headers.get("content-type", ""),
        lambda field, filename: _GrowingFile(folder / f"{field}{_ending(filename)}"),
        file_fields=file_fields,
        text_fields=text_fields,
    )
    too_large = f"the form is larger than {limit:,} bytes allow"
    try:
        async for chunk in read_chunks(request, limit + _FORM_OVERHEAD_BYTES, too_large, may_pause=True):
            form.write(chunk)
            for file in form.files.values():
                await file.write_out()
        texts = form.finish(is_file_needed=is_file_needed)
        for name, file in form.files.items():
            if file.num_bytes == 0:
                raise EmptyBody(f"the file of the field {name!r} is empty (0 bytes)")
            await file.close()
    except BaseException:
        for file in form.files.values():
            file.discard()
        raise
    return ReceivedForm(texts, {name: file.path for name, file in form.files.items()}, form.filenames)


def _ending(filename: str) -> str:
    """Return the plain ending of a client's name of a file: no more of it is kept, it is no path of ours."""
    ending = Path(filename.replace("\0", "")).suffix.lower()
    return ending if _ENDING.fullmatch(ending) else ""


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
                # On a full disk what is still in its buffer cannot be written out, nor is to be.
                with contextlib.suppress(OSError):
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
