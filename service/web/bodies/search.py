"""Read the query of a search request: multipart form, raw image, or JSON with base64.

Bytes are counted while they arrive, chunked bodies included, and a form is taken apart while it does: what a search
holds in memory is its image, and of JSON its text.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError

from service.errors import InvalidParameter
from service.serving.limits import DEFAULT_K, MAX_K
from service.web.bodies.forms import FormParts
from service.web.errors import EmptyBody, InvalidBase64, UnsupportedContentType
from service.web.middleware.body_guard import read_chunks
from service.web.schemas.search import JSONQuery

IMAGE_FIELD = "image"
_PARAMETERS = ("k", "min_score")
# What a form needs around its image: boundaries, headers, other fields.
_FORM_OVERHEAD_BYTES = 64 * 1024
_MAX_NUMBER_BYTES = 1024
_READS = "multipart/form-data with a file field 'image', image/* or application/json"
_EMPTY = f"the body is empty (0 bytes); send {_READS}"


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """An image and how many products to find for it."""

    image_bytes: bytes
    k: int
    min_score: float | None


async def read_search_query(
    request: Request, *, max_image_bytes: int, k: int | None, min_score: float | None
) -> SearchQuery:
    """Read a search; `k` and `min_score` are those of the address and exclude others in the body.

    Raises a RequestError that says what is wrong and what would be right.
    """
    _check_parameters([name for name, _ in request.query_params.multi_items()])
    content_type = content_type_of(request)
    given = {"k": k, "min_score": min_score}
    if content_type == "multipart/form-data":
        image_bytes, in_body = await _read_form(request, max_image_bytes)
    elif content_type == "application/json":
        image_bytes, in_body = _from_json(
            await _read_body(request, 4 * (max_image_bytes // 3 + 1) + _FORM_OVERHEAD_BYTES)
        )
    elif content_type.startswith("image/"):
        image_bytes, in_body = await _read_body(request, max_image_bytes), {}
    else:
        shown = f"{content_type!r} is not supported" if content_type else "the request has no Content-Type"
        raise UnsupportedContentType(f"{shown}; send {_READS}")
    for name, value in in_body.items():
        if value is not None and given[name] is not None:
            raise InvalidParameter(f"{name} stands in the address and in the body; give it once")
        given[name] = given[name] if value is None else value
    if not image_bytes:
        raise EmptyBody("the image is empty (0 bytes)")
    return SearchQuery(image_bytes, int(given["k"] or DEFAULT_K), given["min_score"])


def content_type_of(request: Request) -> str:
    """Return the content type of a body without its parameters, in small letters; "" where none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_small_body(request: Request, limit: int) -> bytes:
    """Read a body that may be empty; raises BodyTooLarge."""
    try:
        return await _read_body(request, limit)
    except EmptyBody:
        return b""


def _check_parameters(names: list[str]) -> None:
    for name in names:
        if name not in _PARAMETERS:
            raise InvalidParameter(f"the address has an unknown parameter {name!r}; parameters are k and min_score")
        if names.count(name) > 1:
            raise InvalidParameter(f"the address has the parameter {name!r} twice")


async def _read_body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in read_chunks(request, limit, f"the body is larger than {limit:,} bytes", may_pause=False):
        body += chunk
    if not body:
        raise EmptyBody(_EMPTY)
    return bytes(body)


class _Image:
    """The file of a form, kept in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.content += chunk


async def _read_form(request: Request, max_image_bytes: int) -> tuple[bytes, dict[str, float | None]]:
    form = FormParts(
        request.headers["content-type"],
        lambda _field, _filename: _Image(),
        file_fields=(IMAGE_FIELD,),
        text_fields=_PARAMETERS,
        max_text_bytes=_MAX_NUMBER_BYTES,
    )
    limit = max_image_bytes + _FORM_OVERHEAD_BYTES
    is_empty = True
    async for chunk in read_chunks(request, limit, f"the body is larger than {limit:,} bytes", may_pause=False):
        is_empty = is_empty and not chunk
        form.write(chunk)
    if is_empty:
        raise EmptyBody(_EMPTY)
    texts = form.finish()
    numbers = {
        "k": _number(texts.get("k"), "k", int, 1, MAX_K),
        "min_score": _number(texts.get("min_score"), "min_score", float, -1, 1),
    }
    return bytes(form.files[IMAGE_FIELD].content), numbers


def _number(value: str | None, name: str, convert: Callable[[str], float], least: float, most: float) -> float | None:
    if value is None:
        return None
    wanted = f"{name} must be a{'n integer' if convert is int else ' number'} from {least} to {most}"
    try:
        number = convert(value)
    except ValueError:
        raise InvalidParameter(f"{wanted}, got {value!r}") from None
    # Written so that NaN is refused as well.
    if not least <= number <= most:
        raise InvalidParameter(f"{wanted}, got {value!r}")
    return number


def _from_json(body: bytes) -> tuple[bytes, dict[str, float | None]]:
    try:
        query = JSONQuery.model_validate_json(body)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'body'}: {detail['msg']} (got {detail['input']!r:.80})"
            for detail in error.errors()
        )
        raise InvalidParameter(f"the JSON body cannot be used: {reasons}") from error
    text = query.image
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        image_bytes = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidBase64(f"the field 'image' is not base64: {error}") from error
    return image_bytes, {"k": query.k, "min_score": query.min_score}
