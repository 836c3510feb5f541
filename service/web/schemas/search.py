"""What goes over HTTP."""

from pydantic import BaseModel, ConfigDict, Field

from service.serving.engine import SearchResult

MAX_K = 1000
DEFAULT_K = 10


class SearchHit(BaseModel):
    """One product, shown by its best image."""

    product_id: str
    title: str
    score: float = Field(description="Cosine similarity, at most 1; higher is better.")
    image_id: str
    image_url: str
    attributes: dict[str, object]


class SearchTiming(BaseModel):
    """Milliseconds that each stage took."""

    decode: float = Field(description="From bytes to the network's input, waiting for a thread included.")
    wait: float = Field(description="In the queue to the network.")
    embed: float = Field(description="In the network, with whatever shared its batch.")
    search: float = Field(description="In the index, waiting for a thread included.")
    group: float = Field(description="Making products of the rows found, and reading what is shown of them.")
    total: float


class SearchResponse(BaseModel):
    """Products that look like the image, best first, one hit a product."""

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
    """A search whose image is sent as base64."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The image file, base64; a data: URL is read too.")
    k: int | None = Field(None, ge=1, le=MAX_K, strict=True, description="How many products.")
    min_score: float | None = Field(
        None, ge=-1, le=1, strict=True, allow_inf_nan=False, description="Leave out what scores less."
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
