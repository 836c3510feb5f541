"""Read the body of a request that brings labels or a catalogue: JSON, a table, a zip, or a form with one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastapi import Request

from service.catalogue.unpacking import unpack_upload
from service.installation.settings import Settings
from service.labels.errors import InvalidLabels
from service.labels.sources import LabelSource, read_label_rows, read_label_source, single_image
from service.web.bodies.search import content_type_of, read_small_body
from service.web.bodies.uploads import receive_form, receive_to_file
from service.web.errors import EmptyBody, InvalidForm, UnsupportedContentType
from training.datasets.records import RECORD_ENDINGS, parse_json

FORM = "multipart/form-data"
ZIP_TYPES = ("application/zip", "application/x-zip-compressed")
IMAGE_FIELD, FILE_FIELD, ARCHIVE_FIELD = "image", "file", "archive"
# Fields that say something of all rows, in a form and in the address alike.
COMMON_FIELDS = ("labelled_by", "source")
IMAGE_FIELDS = ("product_id", "label")

_TABLES = {
    "text/csv": "labels.csv",
    "application/x-ndjson": "labels.ndjson",
    "application/ndjson": "labels.ndjson",
    "application/jsonl": "labels.ndjson",
}
_LEAST_JSON_BYTES = 8 * 2**20
_READS_LABELS = f"application/json, text/csv, application/x-ndjson, application/zip or {FORM}"
_READS_ARCHIVE = f"application/zip, or {FORM} with a file field {ARCHIVE_FIELD!r}"


@dataclass(frozen=True, slots=True)
class ReceivedLabels:
    """What arrived: `open` reads it and may take long, so it belongs into a thread; `fields` came with a form."""

    open: Callable[[], LabelSource]
    fields: Mapping[str, str] = field(default_factory=dict)


async def receive_labels(request: Request, folder: Path, settings: Settings) -> ReceivedLabels:
    """Take a body with labels into `folder`; raises a RequestError that says what is wrong and what would be right."""
    content_type = content_type_of(request)
    limit = settings.max_upload_bytes
    if content_type == FORM:
        return await _from_form(request, folder, settings)
    if content_type == "application/json":
        # An image of the largest size fits in, as base64.
        body = await read_small_body(request, max(4 * (settings.max_image_bytes // 3 + 1) + 65536, _LEAST_JSON_BYTES))
        if not body:
            raise EmptyBody('the body is empty (0 bytes); send {"labels": [ROW, ...]}')
        return ReceivedLabels(partial(_from_json, body))
    if content_type in _TABLES:
        path = await receive_to_file(request, folder / _TABLES[content_type], limit)
        return ReceivedLabels(partial(read_label_source, path, has_images=False))
    if content_type in ZIP_TYPES:
        path = await receive_to_file(request, folder / "archive.zip", limit)
        return ReceivedLabels(partial(_from_archive, path, settings))
    raise _unsupported(content_type, _READS_LABELS)


async def receive_archive(request: Request, folder: Path, settings: Settings) -> Path:
    """Take a body that is a zip, or a form with one, into `folder`; return the file."""
    content_type = content_type_of(request)
    if content_type in ZIP_TYPES:
        return await receive_to_file(request, folder / "archive.zip", settings.max_upload_bytes)
    if content_type == FORM:
        fields = (ARCHIVE_FIELD, FILE_FIELD)
        form = await receive_form(request, folder, limit=settings.max_upload_bytes, file_fields=fields)
        return next(iter(form.files.values()))
    raise _unsupported(content_type, _READS_ARCHIVE)


async def _from_form(request: Request, folder: Path, settings: Settings) -> ReceivedLabels:
    form = await receive_form(
        request,
        folder,
        limit=settings.max_upload_bytes,
        file_fields=(IMAGE_FIELD, FILE_FIELD, ARCHIVE_FIELD),
        text_fields=(*IMAGE_FIELDS, *COMMON_FIELDS),
    )
    ((name, path),) = form.files.items()
    fields = {name: form.fields[name] for name in COMMON_FIELDS if form.fields.get(name)}
    if name == IMAGE_FIELD:
        product_id, label = (form.fields.get(field) or None for field in IMAGE_FIELDS)
        return ReceivedLabels(partial(single_image, path, product_id=product_id, label=label), fields)
    if stray := [field for field in IMAGE_FIELDS if field in form.fields]:
        raise InvalidForm(f"the field {stray[0]!r} goes with a file field {IMAGE_FIELD!r}; what {name!r} holds says so")
    if name == FILE_FIELD and path.suffix in RECORD_ENDINGS:
        return ReceivedLabels(partial(read_label_source, path, has_images=False), fields)
    return ReceivedLabels(partial(_from_archive, path, settings), fields)


def _from_archive(archive: Path, settings: Settings) -> LabelSource:
    return read_label_source(unpack_upload(archive, archive.with_name("unpacked"), settings))


def _from_json(body: bytes) -> LabelSource:
    try:
        content = parse_json(body.decode())
    except ValueError as error:
        raise InvalidLabels(f"the body cannot be read: {error}") from error
    rows = content.get("labels") if isinstance(content, dict) and set(content) == {"labels"} else None
    if not isinstance(rows, list):
        raise InvalidLabels('the body must be a JSON object with nothing but a list of rows: {"labels": [ROW, ...]}')
    return read_label_rows(rows)


def _unsupported(content_type: str, reads: str) -> UnsupportedContentType:
    shown = f"{content_type!r} is not supported" if content_type else "the request has no Content-Type"
    return UnsupportedContentType(f"{shown}; send {reads}")
