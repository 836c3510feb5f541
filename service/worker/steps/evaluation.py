"""The steps that prove a candidate: it and the active release measured on the same images, then the gate."""

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
from service.worker.steps.preparation import request_of
from training.evaluation.evaluation_set import EvaluationSet, SetMeasurement, measure
from training.evaluation.latency import median_latencies
from training.gate import Measured, Verdict, decide
from training.run import CHECKPOINT

_NUM_LATENCY_IMAGES = 8


@dataclass(frozen=True, slots=True)
class _Subject:
    """A model that is measured."""

    name: str
    embedder: Embedder
    release_id: str | None


def evaluate(run: Run) -> Facts:
    """Measure the candidate and the active release on the evaluation set, in this one step, and keep both records."""
    with run.installation.database.reading() as session:
        active = active_release(session)
    evaluation_set = _evaluation_set(run)
    subjects = _subjects(run, active)
    names = _names(run, evaluation_set)
    latencies = _latencies(run, subjects, names)
    facts: Facts = {"compared_release_id": active.release_id, "compared_version": active.version}
    for subject, latency in zip(subjects, latencies, strict=True):
        measured = _measure(run, subject, evaluation_set, names)
        metrics = {part: dict(values) for part, values in measured.metrics.items()}
        evaluation_id = evaluation_id_of(run.operation_id, subject.embedder.space_id)
        measured.write(measurement_path(run.installation.settings, evaluation_id))
        with run.installation.database.transaction() as session:
            record_evaluation(
                session,
                evaluation_id=evaluation_id,
                evaluation_set_id=evaluation_set.evaluation_set_id,
                space_id=subject.embedder.space_id,
                release_id=subject.release_id,
                operation_id=run.operation_id,
                num_queries=len(evaluation_set.queries),
                metrics=metrics,
            )
        facts[subject.name] = {
            "evaluation_id": evaluation_id,
            "space_id": subject.embedder.space_id,
            "metrics": metrics,
            "latency_milliseconds": round(latency, 3),
        }
    return facts


def decide_promotion(run: Run) -> Facts:
    """Ask the gate; a candidate that is not better ends the operation as rejected, which is a normal end."""
    verdict = judge(run, None)
    facts = {"verdict": verdict.to_json()}
    if not verdict.promote:
        raise reject("gate", _failures(verdict), facts)
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


def _failures(verdict: Verdict) -> str:
    return "; ".join(reason.message for reason in verdict.reasons if not reason.is_met)


def _evaluation_set(run: Run) -> EvaluationSet:
    return EvaluationSet.read(set_path(run.installation.settings, run.facts["evaluation_set"]["id"]))


def _subjects(run: Run, active: ActiveRelease) -> list[_Subject]:
    settings = run.installation.settings

    def loaded(checkpoint: Path) -> Embedder:
        return load_embedder(checkpoint, device=settings.device, precision=settings.precision)

    subjects = [_Subject("candidate", loaded(run.folder / RUN / CHECKPOINT), None)]
    if active.release_id is not None:
        directory = settings.releases_dir / active.release_id
        subjects.append(_Subject("active", loaded(directory / CHECKPOINT_NAME), active.release_id))
    return subjects


def _names(run: Run, evaluation_set: EvaluationSet) -> dict[str, MediaName]:
    digests = [*evaluation_set.query_sha256, *evaluation_set.gallery_sha256]
    with run.installation.database.reading() as session:
        names = media_names_of(session, digests)
    if missing := set(digests) - names.keys():
        raise MediaError(f"{len(missing)} images of the evaluation set are not known any more: {min(missing)}")
    # In one order on every database: what shares a batch changes the last bit of an embedding.
    return {digest: names[digest] for digest in dict.fromkeys(digests)}


def _measure(run: Run, subject: _Subject, evaluation_set: EvaluationSet, names: dict[str, MediaName]) -> SetMeasurement:
    installation, embedder = run.installation, subject.embedder
    stage = f"Evaluating the {subject.name} model" if subject.name == "candidate" else "Evaluating the active release"
    # Kept with all other embeddings: what is measured now need not be embedded again, now or in the next retrain.
    embed_missing(
        installation.database,
        installation.media_store,
        embedder,
        list(names.values()),
        limits=installation.limits,
        on_progress=lambda done, total: run.report(stage, done, total),
    )

    def rows(digests: Sequence[str]) -> NDArray[np.float32]:
        with installation.database.reading() as session:
            return read_embeddings(session, embedder.space_id, digests, embedder.embedding_dim)

    run.check()
    queries_QD, gallery_GD = rows(evaluation_set.query_sha256), rows(evaluation_set.gallery_sha256)
    return measure(evaluation_set, queries_QD, gallery_GD, str(embedder.device))


def _latencies(run: Run, subjects: Sequence[_Subject], names: dict[str, MediaName]) -> list[float]:
    """Return the milliseconds that each model takes for one image, measured in turn."""
    chosen = sorted(names)[:_NUM_LATENCY_IMAGES]
    store, limits = run.installation.media_store, run.installation.limits
    images = [decode_image(store.get(names[digest]), limits) for digest in chosen]
    embedders = [subject.embedder for subject in subjects]
    prepared = [[embedder.to_pixels(image) for image in images] for embedder in embedders]
    return median_latencies(embedders, prepared)
