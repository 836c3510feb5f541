"""Request and response bodies of a search."""

import json

from pydantic import BaseModel, ConfigDict, Field

from service.serving.engine import Hit, SearchResult, Timing
from service.serving.limits import HIGHEST_SCORE, LOWEST_SCORE, MAX_K, MIN_K

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class SearchHit(BaseModel):
    """A product, represented by its most similar image."""

    product_id: str
    title: str
    score: float = Field(description="Cosine similarity, at most 1; higher is better.")
    image_id: str
    image_url: str
    attributes: dict[str, object]


class SearchTiming(BaseModel):
    """Duration of each stage in milliseconds."""

    decode: float = Field(description="Decoding and preprocessing, including the wait for a thread.")
    wait: float = Field(description="Waiting in the queue of the network.")
    embed: float = Field(description="Running the network on the batch that the image was part of.")
    search: float = Field(description="Searching the index, including the wait for a thread.")
    group: float = Field(description="Grouping the rows found into products and reading what is shown of them.")
    total: float


class SearchResponse(BaseModel):
    """Products similar to the image, best first, one hit per product."""

    release_id: str
    hits: list[SearchHit]
    timing: SearchTiming


def encode_response(result: SearchResult, media_root: str) -> bytes:
    """Return a SearchResponse as JSON; `media_root` is the path under which images are served.

    Hits are encoded one by one: a single call for thousands of hits would not let other threads run, and models for
    them would take three times as long.
    """
    hits = ",".join(_encode(_hit_fields(hit, media_root)) for hit in result.hits)
    timing = _encode(_timing_fields(result.timing))
    return f'{{"release_id":{_encode(result.release_id)},"hits":[{hits}],"timing":{timing}}}'.encode()


def _hit_fields(hit: Hit, media_root: str) -> dict[str, object]:
    """Return the fields of a SearchHit."""
    row = hit.row
    return {
        "product_id": row.product_id,
        "title": row.title,
        "score": round(hit.score, 6),
        "image_id": row.image_id,
        "image_url": f"{media_root}/{row.media_name}",
        "attributes": row.attributes,
    }


def _timing_fields(timing: Timing) -> dict[str, float]:
    """Return the fields of a SearchTiming."""
    return {
        "decode": _milliseconds(timing.decode_seconds),
        "wait": _milliseconds(timing.wait_seconds),
        "embed": _milliseconds(timing.embed_seconds),
        "search": _milliseconds(timing.search_seconds),
        "group": _milliseconds(timing.group_seconds),
        "total": _milliseconds(timing.total_seconds),
    }


class JSONQuery(BaseModel):
    """A search with the image in base64."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The image file in base64; a data: URL is accepted too.")
    k: int | None = Field(None, ge=MIN_K, le=MAX_K, strict=True, description="How many products.")
    min_score: float | None = Field(
        None, ge=LOWEST_SCORE, le=HIGHEST_SCORE, strict=True, allow_inf_nan=False, description="Omit lower scores."
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
