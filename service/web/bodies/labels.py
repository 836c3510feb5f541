"""Read the body of a request with labels: JSON, a table, a zip archive, or a form with one file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastapi import Request

from service.errors import InvalidParameter
from service.installation.settings import Settings
from service.labels.errors import InvalidLabels
from service.labels.intake import OpenLabels, without_unpacking
from service.labels.sources import LabelSource, read_label_rows, single_image
from service.web.bodies.reading import (
    FORM,
    JSON,
    ZIP_TYPES,
    content_type_of,
    json_text,
    read_small_body,
    unsupported_content_type,
)
from service.web.bodies.uploads import (
    ARCHIVE_FIELD,
    FILE_FIELD,
    TABLE_TYPES,
    ReceivedUpload,
    receive_form,
    receive_upload,
    upload_of_form,
)
from service.web.errors import EmptyBody, InvalidForm
from training.datasets.records import parse_json

IMAGE_FIELD = "image"
# Values for all rows of a request, in a form or in the URL.
COMMON_FIELDS = ("labelled_by", "source")
IMAGE_FIELDS = ("product_id", "label")

_MIN_JSON_LIMIT_BYTES = 8 * 2**20
_JSON_OVERHEAD_BYTES = 64 * 1024
_SUPPORTED = f"{JSON}, text/csv, application/x-ndjson, application/zip or {FORM}"


@dataclass(frozen=True, slots=True)
class ReceivedRows:
    """A few rows or one image, received but not yet read: they are applied while the client waits.

    `open` blocks, so call it in a thread; `fields` are text fields of a form.
    """

    open: OpenLabels
    fields: Mapping[str, str] = field(default_factory=dict)


async def receive_labels(request: Request, folder: Path, settings: Settings) -> ReceivedRows | ReceivedUpload:
    """Receive labels; files are written to `folder`. Raises RequestError."""
    content_type = content_type_of(request)
    if content_type == JSON:
        # At least one image of the maximum size fits, in base64.
        one_image = 4 * (settings.max_image_bytes // 3 + 1) + _JSON_OVERHEAD_BYTES
        body = await read_small_body(request, max(one_image, _MIN_JSON_LIMIT_BYTES))
        if not body:
            raise EmptyBody('the body is empty (0 bytes); send {"labels": [ROW, ...]}')
        return ReceivedRows(without_unpacking(partial(_from_json, body)))
    if content_type == FORM:
        return await _from_form(request, folder, settings)
    if content_type in TABLE_TYPES or content_type in ZIP_TYPES:
        return await receive_upload(request, folder, settings)
    raise unsupported_content_type(content_type, _SUPPORTED)


async def _from_form(request: Request, folder: Path, settings: Settings) -> ReceivedRows | ReceivedUpload:
    form = await receive_form(
        request,
        folder,
        limit=settings.max_upload_bytes,
        file_fields=(IMAGE_FIELD, FILE_FIELD, ARCHIVE_FIELD),
        text_fields=(*IMAGE_FIELDS, *COMMON_FIELDS),
    )
    ((name, path),) = form.files.items()
    if name == IMAGE_FIELD:
        product_id, label = (form.fields.get(field) or None for field in IMAGE_FIELDS)
        read = partial(single_image, path, product_id=product_id, label=label)
        return ReceivedRows(without_unpacking(read), form.fields)
    if unexpected := [field for field in IMAGE_FIELDS if field in form.fields]:
        raise InvalidForm(
            f"the field {unexpected[0]!r} requires a file field {IMAGE_FIELD!r}; the rows of {name!r} have their own"
        )
    return upload_of_form(form)


def _from_json(body: bytes) -> LabelSource:
    try:
        content = parse_json(json_text(body))
    except (ValueError, InvalidParameter) as error:
        raise InvalidLabels(f"the body cannot be read: {error}") from error
    rows = content.get("labels") if isinstance(content, dict) and set(content) == {"labels"} else None
    if not isinstance(rows, list):
        raise InvalidLabels('the body must be a JSON object with only a list of rows: {"labels": [ROW, ...]}')
    return read_label_rows(rows)
