"""Bodies that are too large for memory: counted and written to the disk while they arrive.

After any failure, such as a disconnected client or a full disk, no partial file is left.
"""

import asyncio
import contextlib
import re
import shutil
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi import Request

from service.catalogue.unpacking import new_upload_folder
from service.installation.settings import Settings
from service.operations.queueing import ZIP
from service.web.bodies.forms import FormParts
from service.web.bodies.reading import FORM, ZIP_TYPES, content_type_of, unsupported_content_type
from service.web.errors import EmptyBody
from service.web.middleware.body_guard import read_chunks
from training.datasets.records import RECORD_ENDINGS

ARCHIVE_FIELD, FILE_FIELD = "archive", "file"
# The extensions of the files that tables are written to.
TABLE_TYPES = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/x-ndjson": ".ndjson",
    "application/ndjson": ".ndjson",
    "application/jsonl": ".ndjson",
}
UPLOAD_TYPES = f"application/zip, text/csv, application/x-ndjson, or {FORM} with a file field {ARCHIVE_FIELD!r}"

# Small chunks are collected, since each write runs in another thread.
_WRITE_BYTES = 1024 * 1024
# The boundaries, headers and text fields of a form, in addition to its file.
_FORM_OVERHEAD_BYTES = 512 * 1024
_EXTENSION = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class ReceivedForm:
    """The text fields of a multipart form, and the paths of its files, by the names of their fields."""

    fields: Mapping[str, str]
    files: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class ReceivedUpload:
    """A zip archive or a table, by the extension of the file, and the text fields that came with it in a form."""

    path: Path
    fields: Mapping[str, str] = field(default_factory=dict)


@asynccontextmanager
async def upload_folder(settings: Settings) -> AsyncIterator[Path]:
    """Provide a temporary folder for the files of one request."""
    folder = await asyncio.to_thread(new_upload_folder, settings)
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def receive_to_file(request: Request, path: Path, limit: int) -> Path:
    """Write the body of a request to the new file `path`; return it.

    Raises BodyTooLarge (more than `limit` bytes), BodyTooSlow, ClientLeft, EmptyBody; then no file is left.
    """
    async with _written(path) as file:
        async for chunk in read_chunks(request, limit, f"the body is larger than {limit:,} bytes", may_pause=True):
            file.add(chunk)
            await file.write_out()
        if file.num_bytes == 0:
            raise EmptyBody("the body is empty (0 bytes); send the file as the body")
    return path


async def receive_upload(
    request: Request, folder: Path, settings: Settings, *, text_fields: Sequence[str] = ()
) -> ReceivedUpload:
    """Write a zip archive or a table, sent as the body or in a form, to a file in `folder`. Raises RequestError."""
    content_type = content_type_of(request)
    extension = TABLE_TYPES.get(content_type, ZIP if content_type in ZIP_TYPES else "")
    limit = settings.max_upload_bytes
    if extension:
        return ReceivedUpload(await receive_to_file(request, folder / f"upload{extension}", limit))
    if content_type != FORM:
        raise unsupported_content_type(content_type, UPLOAD_TYPES)
    fields = (ARCHIVE_FIELD, FILE_FIELD)
    form = await receive_form(request, folder, limit=limit, file_fields=fields, text_fields=text_fields)
    return upload_of_form(form)


def upload_of_form(form: ReceivedForm) -> ReceivedUpload:
    """Return the file of a form as an upload: a table if it is a `file` with the extension of one, else an archive."""
    ((name, path),) = form.files.items()
    if name != FILE_FIELD or path.suffix not in RECORD_ENDINGS:
        path = path.rename(path.with_suffix(ZIP))
    return ReceivedUpload(path, form.fields)


async def receive_form(
    request: Request,
    folder: Path,
    *,
    limit: int,
    file_fields: Sequence[str],
    text_fields: Sequence[str] = (),
) -> ReceivedForm:
    """Write the one file of a multipart form to `folder`; its name is that of the field with the client's extension.

    Raises BodyTooLarge, BodyTooSlow, ClientLeft, EmptyBody, and InvalidForm if the form is truncated, has an unknown or
    repeated field, text in place of a file or a file in place of text; then no file is left.
    """
    form = FormParts(
        request.headers.get("content-type", ""),
        lambda field, filename: _GrowingFile(folder / f"{field}{_extension(filename)}"),
        file_fields=file_fields,
        text_fields=text_fields,
    )
    too_large = f"the file of the form is larger than {limit:,} bytes"
    try:
        async for chunk in read_chunks(request, limit + _FORM_OVERHEAD_BYTES, too_large, may_pause=True):
            form.write(chunk)
            for file in form.files.values():
                await file.write_out()
        texts = form.finish()
        for name, file in form.files.items():
            if file.num_bytes == 0:
                raise EmptyBody(f"the file of the field {name!r} is empty (0 bytes)")
            await file.close()
    except BaseException:
        for file in form.files.values():
            file.discard()
        raise
    return ReceivedForm(texts, {name: file.path for name, file in form.files.items()})


def _extension(filename: str) -> str:
    """Return the extension of a client's file name if it is plain; the rest of the name is never used in a path."""
    extension = Path(filename.replace("\0", "")).suffix.lower()
    return extension if _EXTENSION.fullmatch(extension) else ""


class _GrowingFile:
    """A file that is written in a thread, without blocking the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self._collected = bytearray()
        self._file: BinaryIO | None = None
        self._is_discarded = False
        self._lock = threading.Lock()

    def add(self, chunk: bytes) -> None:
        """Append bytes, which `write_out` and `close` write."""
        self._collected += chunk
        self.num_bytes += len(chunk)

    async def write_out(self) -> None:
        """Write the collected bytes if there are enough."""
        if len(self._collected) >= _WRITE_BYTES:
            content, self._collected = self._collected, bytearray()
            await asyncio.to_thread(self._append, content)

    async def close(self) -> None:
        """Write the remaining bytes; an empty file is created too."""
        await asyncio.to_thread(self._append, self._collected, is_last=True)

    def discard(self) -> None:
        """Remove the file; a write still running in a thread, after a cancelled request, does not recreate it."""
        with self._lock:
            self._is_discarded = True
            if self._file is not None:
                # close() writes the buffer, which fails on a full disk.
                with contextlib.suppress(OSError):
                    self._file.close()
                self.path.unlink(missing_ok=True)

    def _append(self, content: bytearray, *, is_last: bool = False) -> None:
        with self._lock:
            if self._is_discarded:
                return
            if self._file is None:
                # "x": never overwrite an existing file.
                self._file = self.path.open("xb")
            self._file.write(content)
            if is_last:
                self._file.close()


@asynccontextmanager
async def _written(path: Path) -> AsyncIterator[_GrowingFile]:
    """Provide a file to write, which is removed if the block raises."""
    file = _GrowingFile(path)
    try:
        yield file
        await file.close()
    except BaseException:
        file.discard()
        raise
