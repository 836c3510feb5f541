"""The steps that judge a candidate: measure it and the active release on the same images, then apply the gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding.checkpoint import load_embedder
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from service.catalogue.records import media_names_of
from service.embeddings.stored import embed_missing, read_embeddings
from service.evaluations.records import evaluation_id_of, measurement_path, record_evaluation, set_path
from service.operations.folder import RUN
from service.releases.files import CHECKPOINT_NAME
from service.releases.records import ActiveRelease, active_release
from service.storage.errors import MediaError
from service.storage.media import MediaName
from service.worker.run import Facts, Run, reject
from service.worker.steps.embedding import embedding_progress
from service.worker.steps.snapshot import request_of
from training.evaluation.evaluation_set import EvaluationSet, SetMeasurement, measure
from training.evaluation.latency import median_latencies
from training.gate.decision import Measured, Verdict, decide
from training.running.run import CHECKPOINT

_NUM_LATENCY_IMAGES = 8


@dataclass(frozen=True, slots=True)
class _MeasuredModel:
    """A model to measure."""

    name: str
    embedder: Embedder
    release_id: str | None


def evaluate(run: Run) -> Facts:
    """Measure the candidate and the active release on the evaluation set, and record both."""
    with run.installation.database.reading() as session:
        active = active_release(session)
    evaluation_set = _evaluation_set(run)
    models = _models(run, active)
    names = _names(run, evaluation_set)
    latencies = _latencies(run, models, names)
    facts: Facts = {"compared_release_id": active.release_id, "compared_version": active.version}
    for model, latency in zip(models, latencies, strict=True):
        measured = _measure(run, model, evaluation_set, names)
        metrics = {part: dict(values) for part, values in measured.metrics.items()}
        evaluation_id = evaluation_id_of(run.operation_id, model.embedder.space_id)
        measured.write(measurement_path(run.installation.settings, evaluation_id))
        with run.installation.database.transaction() as session:
            record_evaluation(
                session,
                evaluation_id=evaluation_id,
                evaluation_set_id=evaluation_set.evaluation_set_id,
                space_id=model.embedder.space_id,
                release_id=model.release_id,
                operation_id=run.operation_id,
                num_queries=len(evaluation_set.queries),
                metrics=metrics,
            )
        facts[model.name] = {
            "evaluation_id": evaluation_id,
            "space_id": model.embedder.space_id,
            "metrics": metrics,
            "latency_milliseconds": round(latency, 3),
        }
    return facts


def decide_promotion(run: Run) -> Facts:
    """Apply the gate; a candidate that does not pass ends the operation as rejected, which is a normal end."""
    verdict = judge(run, None)
    facts = {"verdict": verdict.to_json()}
    if not verdict.promote:
        raise reject("gate", unmet_reasons(verdict), facts)
    return facts


def judge(run: Run, index_recall: float | None) -> Verdict:
    """Return the gate's verdict; `index_recall` is None before there is an index."""
    evaluation_set = _evaluation_set(run)

    def measured(name: str, recall: float | None) -> Measured:
        known = run.facts[name]
        path = measurement_path(run.installation.settings, known["evaluation_id"])
        return Measured.of(
            evaluation_set,
            SetMeasurement.read(path),
            space_id=known["space_id"],
            latency_milliseconds=known["latency_milliseconds"],
            index_recall=recall,
        )

    candidate = measured("candidate", index_recall)
    active = measured("active", None) if "active" in run.facts else None
    return decide(candidate, active, request_of(run).policy())


def unmet_reasons(verdict: Verdict) -> str:
    """Return the reasons for which the gate rejected a candidate, in one line."""
    return "; ".join(reason.message for reason in verdict.reasons if not reason.is_met)


def _evaluation_set(run: Run) -> EvaluationSet:
    return EvaluationSet.read(set_path(run.installation.settings, run.facts["evaluation_set"]["id"]))


def _models(run: Run, active: ActiveRelease) -> list[_MeasuredModel]:
    settings = run.installation.settings

    def loaded(checkpoint: Path) -> Embedder:
        return load_embedder(checkpoint, settings.network_options)

    models = [_MeasuredModel("candidate", loaded(run.folder / RUN / CHECKPOINT), None)]
    if active.release_id is not None:
        directory = settings.releases_dir / active.release_id
        models.append(_MeasuredModel("active", loaded(directory / CHECKPOINT_NAME), active.release_id))
    return models


def _names(run: Run, evaluation_set: EvaluationSet) -> dict[str, MediaName]:
    digests = [*evaluation_set.query_sha256, *evaluation_set.gallery_sha256]
    with run.installation.database.reading() as session:
        names = media_names_of(session, digests)
    if missing := set(digests) - names.keys():
        raise MediaError(f"{len(missing)} images of the evaluation set are no longer stored, such as {min(missing)}")
    # The same order on every database: which images share a batch changes the last bit of an embedding.
    return {digest: names[digest] for digest in dict.fromkeys(digests)}


def _measure(
    run: Run, model: _MeasuredModel, evaluation_set: EvaluationSet, names: dict[str, MediaName]
) -> SetMeasurement:
    installation, embedder = run.installation, model.embedder
    stage = f"Evaluating the {model.name} model" if model.name == "candidate" else "Evaluating the active release"
    # Stored with all other embeddings, so that neither later steps nor the next retrain embed these images again.
    embed_missing(
        installation.database,
        installation.media_store,
        embedder,
        list(names.values()),
        limits=installation.limits,
        on_progress=embedding_progress(run, stage),
    )

    def rows(digests: Sequence[str]) -> NDArray[np.float32]:
        with installation.database.reading() as session:
            return read_embeddings(session, embedder.space_id, digests, embedder.embedding_dim)

    run.check()
    queries_QD, gallery_GD = rows(evaluation_set.query_sha256), rows(evaluation_set.gallery_sha256)
    return measure(evaluation_set, queries_QD, gallery_GD, str(embedder.device))


def _latencies(run: Run, models: Sequence[_MeasuredModel], names: dict[str, MediaName]) -> list[float]:
    """Return the milliseconds per image of each model, measured in turn."""
    chosen = sorted(names)[:_NUM_LATENCY_IMAGES]
    store, limits = run.installation.media_store, run.installation.limits
    images = [decode_image(store.get(names[digest]), limits) for digest in chosen]
    embedders = [model.embedder for model in models]
    prepared = [[embedder.to_pixels(image) for image in images] for embedder in embedders]
    return median_latencies(embedders, prepared)
