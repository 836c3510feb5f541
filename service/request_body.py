"""Read the query of a search request: multipart form, raw picture, or JSON with base64.

Bytes are counted while they arrive and the first one over the limit ends the reading, chunked bodies included;
only then is the body parsed.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.errors import BodyTooLarge, EmptyBody, InvalidBase64, InvalidForm, InvalidParameter, UnsupportedContentType
from service.schemas import DEFAULT_K, MAX_K, JSONQuery

IMAGE_FIELD = "image"
_PARAMETERS = ("k", "min_score")
# What a form needs around its picture: boundaries, headers, other fields.
_FORM_OVERHEAD_BYTES = 64 * 1024
_READS = "multipart/form-data with a file field 'image', image/* or application/json"


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A picture and how many products to find for it."""

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
        body = await _read_body(request, max_image_bytes + _FORM_OVERHEAD_BYTES)
        image_bytes, in_body = await _from_form(request, body)
    elif content_type == "application/json":
        body = await _read_body(request, 4 * (max_image_bytes // 3 + 1) + _FORM_OVERHEAD_BYTES)
        image_bytes, in_body = _from_json(body)
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
        raise EmptyBody("the picture is empty (0 bytes)")
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
    too_large = BodyTooLarge(f"the body is larger than {limit:,} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect:
        raise InvalidForm("the client went away before the body was complete") from None
    if not body:
        raise EmptyBody(f"the body is empty (0 bytes); send {_READS}")
    return bytes(body)


async def _from_form(request: Request, body: bytes) -> tuple[bytes, dict[str, float | None]]:
    async def whole() -> AsyncIterator[bytes]:
        yield body

    _, options = parse_options_header(request.headers["content-type"])
    # The parser takes a form that breaks off for one with fewer fields.
    if (boundary := options.get(b"boundary")) and b"--" + boundary + b"--" not in body:
        raise InvalidForm("the form breaks off: its closing boundary is missing")
    parser = MultiPartParser(request.headers, whole(), max_files=1, max_fields=2)  # type: ignore[arg-type]  # any iterator
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidForm(
            f"the form cannot be read: {error.message}; send one file field {IMAGE_FIELD!r}, and k and min_score"
        ) from error
    except (KeyError, UnicodeDecodeError) as error:
        raise InvalidForm(f"the form cannot be read: {error!r}") from error
    try:
        upload = form.get(IMAGE_FIELD)
        if isinstance(upload, str):
            raise InvalidForm(
                f"the field {IMAGE_FIELD!r} came as text, not as a file; with curl write -F {IMAGE_FIELD}=@photo.jpg"
            )
        if not isinstance(upload, UploadFile):
            found = ", ".join(repr(name) for name in form) or "none"
            raise InvalidForm(f"the form has no file field {IMAGE_FIELD!r} (fields: {found})")
        _check_form_fields([name for name, _ in form.multi_items()])
        numbers = {
            "k": _number(form.get("k"), "k", int, 1, MAX_K),
            "min_score": _number(form.get("min_score"), "min_score", float, -1, 1),
        }
        return await upload.read(), numbers
    finally:
        await form.close()


def _check_form_fields(names: list[str]) -> None:
    for name in names:
        if name not in (IMAGE_FIELD, *_PARAMETERS):
            raise InvalidForm(f"the form has an unknown field {name!r}; fields are {IMAGE_FIELD}, k and min_score")
        if names.count(name) > 1:
            raise InvalidForm(f"the form has the field {name!r} twice")


def _number(value: object, name: str, convert: Callable[[str], float], least: float, most: float) -> float | None:
    if value is None:
        return None
    wanted = f"{name} must be a{'n integer' if convert is int else ' number'} from {least} to {most}"
    try:
        number = convert(str(value))
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
