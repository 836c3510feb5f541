"""Evaluations and their comparison as they go over HTTP."""

from datetime import datetime

from pydantic import BaseModel, Field

from service.evaluations.comparison import Answer, Comparison, QueryChange
from service.storage.database import in_utc
from service.storage.tables.releases import Evaluation

ADMIN_MEDIA_PATH = "/v1/admin/media"


class EvaluationView(BaseModel):
    """One model measured on one set of queries."""

    evaluation_id: str
    evaluation_set_id: str = Field(description="Evaluations of one set can be compared, query by query.")
    space_id: str = Field(description="The model.")
    release_id: str | None = Field(description="The release that has this model; null: it became none.")
    operation_id: str | None
    created_at: datetime
    num_queries: int
    metrics: dict[str, dict[str, float]] = Field(
        description="By part (`all`, `seen`, `unseen`, `mean_of_parts`), then by name (`recall_at_1`, `map_at_r`, …)."
    )

    @classmethod
    def of(cls, evaluation: Evaluation) -> "EvaluationView":
        """Describe a row."""
        return cls.model_validate(
            {
                "evaluation_id": evaluation.id,
                "evaluation_set_id": evaluation.evaluation_set_id,
                "space_id": evaluation.space_id,
                "release_id": evaluation.release_id,
                "operation_id": evaluation.operation_id,
                "created_at": in_utc(evaluation.created_at),
                "num_queries": evaluation.num_queries,
                "metrics": evaluation.metrics,
            }
        )


class EvaluationList(BaseModel):
    """Evaluations, the newest first."""

    evaluations: list[EvaluationView]


class MetricChangeView(BaseModel):
    """A metric of one part in both; the difference lies between `low` and `high` at 95 % confidence."""

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
    """A catalogue image that was found."""

    label: str
    is_right: bool
    score: float
    image_url: str | None = Field(description="Null: the image is not kept any more.")


class QueryChangeView(BaseModel):
    """A query whose first answer became right or wrong; `rank_*`: of its first right answer, from 1 on."""

    label: str
    is_unseen: bool = Field(description="Its class is held out of training altogether.")
    image_url: str | None
    rank_before: int
    rank_after: int
    answers_before: list[AnswerView]
    answers_after: list[AnswerView]


class ComparisonView(BaseModel):
    """Evaluation `b` against `a`. A query is won when its first answer was wrong and is right now."""

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
                {"label": one.label, "is_right": one.is_right, "score": one.score, "image_url": url_of(one.media_name)}
                for one in found
            ]

        def queries(changed: tuple[QueryChange, ...]) -> list[dict[str, object]]:
            return [
                {
                    "label": one.label,
                    "is_unseen": one.is_unseen,
                    "image_url": url_of(one.media_name),
                    "rank_before": one.rank_before,
                    "rank_after": one.rank_after,
                    "answers_before": answers(one.answers_before),
                    "answers_after": answers(one.answers_after),
                }
                for one in changed
            ]

        return cls.model_validate(
            {
                **comparison.to_json(),
                "queries_won": queries(comparison.queries_won),
                "queries_lost": queries(comparison.queries_lost),
            }
        )
