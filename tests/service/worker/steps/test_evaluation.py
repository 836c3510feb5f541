"""The steps that measure a candidate: on held-out queries and a bounded gallery, before the catalogue is embedded."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import func, select

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.evaluations.queries import evaluation_json, list_evaluations
from service.installation.installation import Installation
from service.operations.claims import claim_operation
from service.operations.folder import RUN
from service.operations.kinds import RETRAIN
from service.operations.records import create_operation
from service.operations.requests import parse_retrain
from service.releases.build import build_release
from service.storage.tables.embeddings import StoredEmbedding
from service.worker.run import Ended, Run
from service.worker.steps.evaluation import decide_promotion, evaluate
from service.worker.steps.snapshot import split, take_snapshot
from tests.images import encode
from tests.service.fixtures.tiny_model import save_tiny_checkpoint
from training.running.run import CHECKPOINT

NUM_PRODUCTS, NUM_DISTRACTORS = 60, 5


def write_products(folder: Path) -> Path:
    """Write a folder per product with one catalogue image; every third also has two examples."""
    for number in range(NUM_PRODUCTS):
        names = ["front.png", *(["example/1.png", "example/2.png"] if number % 3 == 0 else [])]
        for place, name in enumerate(names):
            path = folder / f"product-{number}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(Image.new("RGB", (12, 12), (4 * number, 80 * place, number))))
    return folder


@pytest.fixture
def run(installation: Installation, tmp_path: Path) -> Run:
    """The run of a retrain whose training has ended; its candidate is a model with random weights."""
    source = read_import_source(write_products(tmp_path / "products"))
    import_catalogue(source, installation.database, installation.media_store)
    build_release(installation, checkpoint=save_tiny_checkpoint(tmp_path / "active"))
    overrides = [f"evaluation.num_distractors={NUM_DISTRACTORS}"]
    request = parse_retrain({"preset": "head", "overrides": overrides}).model_dump(mode="json")
    operation_id = create_operation(installation.database, RETRAIN, request, actor="test")[0].id
    claim_operation(installation.database, operation_id, "w")
    run = Run(installation, operation_id, "w", request, "test", lambda _, work: work())
    run.facts["preset"] = "head"
    run.facts |= take_snapshot(run) | split(run)
    save_tiny_checkpoint(run.folder / RUN / CHECKPOINT, seed=1)
    return run


def num_embedded(run: Run, space_id: str) -> int:
    with run.installation.database.reading() as session:
        query = select(func.count()).select_from(StoredEmbedding).where(StoredEmbedding.space_id == space_id)
        return session.scalar(query) or 0


def test_a_gate_that_rejects_has_embedded_the_queries_and_a_bounded_gallery(run: Run):
    facts: Any = run.facts["evaluation_set"]

    run.facts |= evaluate(run)
    with pytest.raises(Ended) as ended:
        decide_promotion(run)

    assert (ended.value.state, ended.value.code) == ("rejected", "gate")
    assert facts["num_distractors"] == NUM_DISTRACTORS
    assert facts["num_gallery_images"] < facts["num_catalogue_images"] == NUM_PRODUCTS
    embedded = num_embedded(run, run.facts["candidate"]["space_id"])
    # A product without examples is queried with its own catalogue images, which are stored once.
    assert embedded <= facts["num_queries"] + facts["num_gallery_images"] < NUM_PRODUCTS


def test_both_models_are_measured_on_the_same_set_whose_sizes_are_recorded(run: Run):
    facts: Any = run.facts["evaluation_set"]

    run.facts |= evaluate(run)

    evaluations = list_evaluations(run.installation.database)
    assert {evaluation.evaluation_set_id for evaluation in evaluations} == {facts["id"]}
    assert len(evaluations) == 2
    for evaluation in evaluations:
        shown = evaluation_json(evaluation)
        assert shown["num_gallery_images"] == facts["num_gallery_images"]
        assert shown["num_distractors"] == NUM_DISTRACTORS
