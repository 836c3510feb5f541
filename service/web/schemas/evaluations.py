"""Response bodies of evaluations and comparisons."""

from datetime import datetime

from pydantic import BaseModel, Field

from service.evaluations.comparison import Answer, Comparison, QueryChange
from service.evaluations.queries import gallery_sizes
from service.storage.database import in_utc
from service.storage.tables.evaluations import Evaluation


class EvaluationView(BaseModel):
    """The metrics of one model on one set of queries."""

    evaluation_id: str
    evaluation_set_id: str = Field(description="Evaluations of the same set can be compared.")
    space_id: str = Field(description="Embedding space of the evaluated model.")
    release_id: str | None = Field(description="The release of this model; null if it was not published.")
    operation_id: str | None
    created_at: datetime
    num_queries: int
    num_gallery_images: int | None = Field(
        default=None, description="Images that the queries are searched among; null if it was not recorded."
    )
    num_distractors: int | None = Field(
        default=None, description="Gallery images of products that no query asks for; null if it was not recorded."
    )
    metrics: dict[str, dict[str, float]] = Field(
        description="By part (`all`, `seen`, `unseen`, `mean_of_parts`), then by name (`recall_at_1`, `map_at_r`, …)."
    )

    @classmethod
    def of(cls, evaluation: Evaluation) -> "EvaluationView":
        """Describe a row of the table."""
        return cls.model_validate(
            {
                "evaluation_id": evaluation.id,
                "evaluation_set_id": evaluation.evaluation_set_id,
                "space_id": evaluation.space_id,
                "release_id": evaluation.release_id,
                "operation_id": evaluation.operation_id,
                "created_at": in_utc(evaluation.created_at),
                "num_queries": evaluation.num_queries,
                **gallery_sizes(evaluation),
                "metrics": evaluation.metrics,
            }
        )


class EvaluationList(BaseModel):
    """Evaluations, newest first."""

    evaluations: list[EvaluationView]
    next: str | None = Field(description="`before` of the next page; null on the last page.")


class MetricChangeView(BaseModel):
    """A metric of one part in both; `low` and `high` bound the difference with 95 % confidence."""

    part: str
    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    num_queries: int


class ClassChangeView(BaseModel):
    """The share of a class's queries whose first answer is right."""

    label: str
    num_queries: int
    before: float
    after: float


class AnswerView(BaseModel):
    """A catalogue image that a query found."""

    label: str
    is_right: bool
    score: float
    image_url: str | None = Field(description="Null if the image is no longer stored.")


class QueryChangeView(BaseModel):
    """A query whose first answer became right or wrong; ranks are those of its first right answer, counted from 1."""

    label: str
    is_unseen: bool = Field(description="Whether its class is excluded from training.")
    image_url: str | None
    rank_before: int
    rank_after: int
    answers_before: list[AnswerView]
    answers_after: list[AnswerView]


class ComparisonView(BaseModel):
    """Evaluation `b` compared with `a`. A query is won if its first answer is wrong in `a` and right in `b`."""

    a: EvaluationView
    b: EvaluationView
    changes: list[MetricChangeView]
    num_queries: int
    num_won: int
    num_lost: int
    num_unchanged: int
    classes_won: list[ClassChangeView]
    classes_lost: list[ClassChangeView]
    queries_won: list[QueryChangeView]
    queries_lost: list[QueryChangeView]

    @classmethod
    def of(cls, comparison: Comparison, media_root: str) -> "ComparisonView":
        """Describe a comparison; `media_root` is the path under which all stored images are served."""

        def url_of(media_name: str | None) -> str | None:
            return None if media_name is None else f"{media_root}/{media_name}"

        def answers(found: tuple[Answer, ...]) -> list[dict[str, object]]:
            return [
                {
                    "label": answer.label,
                    "is_right": answer.is_right,
                    "score": answer.score,
                    "image_url": url_of(answer.media_name),
                }
                for answer in found
            ]

        def queries(changed: tuple[QueryChange, ...]) -> list[dict[str, object]]:
            return [
                {
                    "label": query.label,
                    "is_unseen": query.is_unseen,
                    "image_url": url_of(query.media_name),
                    "rank_before": query.rank_before,
                    "rank_after": query.rank_after,
                    "answers_before": answers(query.answers_before),
                    "answers_after": answers(query.answers_after),
                }
                for query in changed
            ]

        return cls.model_validate(
            {
                **comparison.to_json(),
                "queries_won": queries(comparison.queries_won),
                "queries_lost": queries(comparison.queries_lost),
            }
        )
