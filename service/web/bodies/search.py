"""Read the query of a search request: multipart form, raw image, or JSON with base64.

Bytes are counted while they arrive, in chunked bodies too, and forms are parsed while they arrive: only the image, or
the text of a JSON body, is held in memory. JSON and base64 are decoded later, in a thread.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError

from service.errors import InvalidParameter
from service.labels.base64_images import image_bytes_of
from service.serving.limits import DEFAULT_K, HIGHEST_SCORE, LOWEST_SCORE, MAX_K, MIN_K
from service.web.bodies.forms import FormParts
from service.web.bodies.reading import (
    FORM,
    JSON,
    OCTETS,
    content_type_of,
    json_text,
    parse_json,
    read_small_body,
    unsupported_content_type,
)
from service.web.errors import EmptyBody, InvalidBase64
from service.web.middleware.body_guard import read_chunks
from service.web.schemas.search import JSONQuery

IMAGE_FIELD = "image"
_PARAMETERS = ("k", "min_score")
# The boundaries, headers and other fields of a form, in addition to its image.
_FORM_OVERHEAD_BYTES = 64 * 1024
_MAX_NUMBER_BYTES = 1024
_SUPPORTED = f"{FORM} with a file field {IMAGE_FIELD!r}, image/* or {JSON}"
Arrived = Callable[[int], None]  # called with the size of each chunk
Parameters = dict[str, float | None]
_EMPTY = f"the body is empty (0 bytes); send {_SUPPORTED}"


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """An image, and the limits of its results."""

    image_bytes: bytes
    k: int
    min_score: float | None


def max_search_bytes(max_image_bytes: int) -> int:
    """Return the size of the largest body of a search: JSON with the image in base64."""
    return 4 * (max_image_bytes // 3 + 1) + _FORM_OVERHEAD_BYTES


async def receive_search_query(
    request: Request, *, max_image_bytes: int, k: int | None, min_score: float | None, arrived: Arrived
) -> SearchQuery | Callable[[], SearchQuery]:
    """Receive a search request; return the query, or a function that decodes it and takes time: call it in a thread.

    `k` and `min_score` are the query parameters, which the body must not repeat. Both raise RequestError and
    InvalidParameter.
    """
    _check_parameters([name for name, _ in request.query_params.multi_items()])
    content_type = content_type_of(request)
    in_url: Parameters = {"k": k, "min_score": min_score}
    if content_type == FORM:
        return _query(*await _read_form(request, max_image_bytes, arrived), in_url)
    if content_type == JSON:
        body = await _read_body(request, max_search_bytes(max_image_bytes), arrived)
        return lambda: _query(*_from_json(body), in_url)
    if content_type.startswith("image/") or content_type == OCTETS:
        return _query(await _read_body(request, max_image_bytes, arrived), {}, in_url)
    raise unsupported_content_type(content_type, _SUPPORTED)


def _query(image_bytes: bytes, in_body: Parameters, given: Parameters) -> SearchQuery:
    for name, value in in_body.items():
        if value is not None and given[name] is not None:
            raise InvalidParameter(f"{name} is given in both the URL and the body; send it once")
        given[name] = given[name] if value is None else value
    if not image_bytes:
        raise EmptyBody("the image is empty (0 bytes)")
    return SearchQuery(image_bytes, int(given["k"] or DEFAULT_K), given["min_score"])


def _check_parameters(names: list[str]) -> None:
    for name in names:
        if name not in _PARAMETERS:
            raise InvalidParameter(f"the URL has an unknown parameter {name!r}; supported are k and min_score")
        if names.count(name) > 1:
            raise InvalidParameter(f"the URL has the parameter {name!r} twice")


async def _read_body(request: Request, limit: int, arrived: Arrived) -> bytes:
    body = await read_small_body(request, limit, arrived=arrived)
    if not body:
        raise EmptyBody(_EMPTY)
    return body


class _Image:
    """The file of a form, held in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, chunk: bytes) -> None:
        """Append the next bytes."""
        self.content += chunk


async def _read_form(request: Request, max_image_bytes: int, arrived: Arrived) -> tuple[bytes, Parameters]:
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
        arrived(len(chunk))
        is_empty = is_empty and not chunk
        form.write(chunk)
    if is_empty:
        raise EmptyBody(_EMPTY)
    texts = form.finish()
    numbers: Parameters = {
        "k": _number(texts.get("k"), "k", int, MIN_K, MAX_K),
        "min_score": _number(texts.get("min_score"), "min_score", float, LOWEST_SCORE, HIGHEST_SCORE),
    }
    return bytes(form.files[IMAGE_FIELD].content), numbers


def _number(value: str | None, name: str, convert: Callable[[str], float], least: float, most: float) -> float | None:
    if value is None:
        return None
    wanted = f"{name} must be a{'n integer' if convert is int else ' number'} from {least:g} to {most:g}"
    try:
        number = convert(value)
    except ValueError:
        raise InvalidParameter(f"{wanted}, got {value!r}") from None
    # This form of the comparison rejects NaN too.
    if not least <= number <= most:
        raise InvalidParameter(f"{wanted}, got {value!r}")
    return number


def _from_json(body: bytes) -> tuple[bytes, Parameters]:
    try:
        query = JSONQuery.model_validate(parse_json(json_text(body)))
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'body'}: {detail['msg']} (got {detail['input']!r:.80})"
            for detail in error.errors()
        )
        raise InvalidParameter(f"the JSON body is invalid: {reasons}") from error
    try:
        image_bytes = image_bytes_of(query.image)
    except ValueError as error:
        raise InvalidBase64(f"the field {IMAGE_FIELD!r} is not base64: {error}") from error
    return image_bytes, {"k": query.k, "min_score": query.min_score}
