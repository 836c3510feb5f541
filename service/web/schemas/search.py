"""Request and response bodies of a search."""

from pydantic import BaseModel, ConfigDict, Field

from service.serving.engine import SearchResult
from service.serving.limits import MAX_K


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

    @classmethod
    def of(cls, result: SearchResult, media_root: str) -> "SearchResponse":
        """Describe a result; `media_root` is the path under which images are served."""
        timing = result.timing
        return cls(
            release_id=result.release_id,
            hits=[
                SearchHit(
                    product_id=hit.row.product_id,
                    title=hit.row.title,
                    score=round(hit.score, 6),
                    image_id=hit.row.image_id,
                    image_url=f"{media_root}/{hit.row.media_name}",
                    attributes=hit.row.attributes,
                )
                for hit in result.hits
            ],
            timing=SearchTiming(
                decode=_milliseconds(timing.decode_seconds),
                wait=_milliseconds(timing.wait_seconds),
                embed=_milliseconds(timing.embed_seconds),
                search=_milliseconds(timing.search_seconds),
                group=_milliseconds(timing.group_seconds),
                total=_milliseconds(timing.total_seconds),
            ),
        )


class JSONQuery(BaseModel):
    """A search with the image in base64."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The image file in base64; a data: URL is accepted too.")
    k: int | None = Field(None, ge=1, le=MAX_K, strict=True, description="How many products.")
    min_score: float | None = Field(
        None, ge=-1, le=1, strict=True, allow_inf_nan=False, description="Omit lower scores."
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
