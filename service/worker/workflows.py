"""The workflows of operations, each from top to bottom.

A step's name is shown to people, and the engine records the step's result under it. Raise WORKFLOW_VERSION with every
change to the order or the names of steps: recorded steps of an older version no longer match.
"""

from functools import partial

from service.operations.kinds import BUILD, IMPORT, LABELS, RETRAIN
from service.operations.requests import BuildRequest
from service.worker.run import Run
from service.worker.steps.embedding import embed_shard, plan_embedding
from service.worker.steps.evaluation import decide_promotion, evaluate
from service.worker.steps.importing import import_label_rows, import_product_rows, unpack
from service.worker.steps.publishing import (
    activate,
    build,
    build_again,
    count_changes,
    tidy,
    watch_convergence,
)
from service.worker.steps.snapshot import import_labels, request_of, split, take_snapshot
from service.worker.steps.training import train

WORKFLOW_VERSION = "2"


def retrain(run: Run) -> None:
    """Train on the labels, compare the model with the active one, and publish it if it is better."""
    run.step("labels", import_labels)
    run.step("snapshot", take_snapshot)
    run.step("split", split)
    run.step("train", train)
    run.step("evaluate", evaluate)
    run.step("decide", decide_promotion)
    _publish(run)
    if request_of(run).promote == "automatic":
        run.step("activate", activate)
        run.step("converge", watch_convergence)
    run.step("tidy", tidy)


def build_from_catalogue(run: Run) -> None:
    """Build a release of the current catalogue with the active release's model."""
    _publish(run)
    if BuildRequest.model_validate(run.request).activate:
        run.step("activate", activate)
        run.step("converge", watch_convergence)
    run.step("tidy", tidy)


def import_catalogue_upload(run: Run) -> None:
    """Import the products and images of an upload."""
    run.step("unpack", unpack)
    run.step("import", import_product_rows)


def import_label_upload(run: Run) -> None:
    """Apply the labels of an upload."""
    run.step("unpack", unpack)
    run.step("import", import_label_rows)


WORKFLOWS = {
    RETRAIN: retrain,
    BUILD: build_from_catalogue,
    IMPORT: import_catalogue_upload,
    LABELS: import_label_upload,
}


def _publish(run: Run) -> None:
    """Embed the catalogue, then build and publish; catch up once with changes made meanwhile, if they are few."""
    num_shards = run.step("plan", plan_embedding)["num_shards"]
    for shard in range(num_shards):
        run.step(f"embed-{shard + 1}", partial(embed_shard, shard=shard))
    run.step("build", build)
    # Once only: a busy catalogue changes during each build.
    if run.step("catch-up", count_changes)["catches_up"]:
        run.step("build-2", build_again)
        run.step("catch-up-2", count_changes)
