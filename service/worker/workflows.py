"""The two workflows, each from top to bottom. A step's name is what people see, and what is remembered of it.

Changing the order or the names of steps changes what a worker of the new version makes of an operation that an old one
began: raise WORKFLOW_VERSION with it.
"""

from functools import partial

from service.operations.requests import BUILD, RETRAIN, BuildRequest
from service.worker.run import Run
from service.worker.steps.evaluation import decide_promotion, evaluate
from service.worker.steps.preparation import import_labels, request_of, split, take_snapshot
from service.worker.steps.publishing import (
    activate,
    build,
    count_changes,
    embed_shard,
    plan_embedding,
    tidy,
    watch_convergence,
)
from service.worker.steps.training import train

WORKFLOW_VERSION = "1"
# How often a release is built anew because the catalogue changed while it was built; a shop never stands still.
_MOST_BUILDS = 3


def retrain(run: Run) -> None:
    """Learn from the labels, prove the model better, serve it."""
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
    """Build a release of the catalogue as it is, with the model there is."""
    _publish(run)
    if BuildRequest.model_validate(run.request).activate:
        run.step("activate", activate)
        run.step("converge", watch_convergence)
    run.step("tidy", tidy)


WORKFLOWS = {RETRAIN: retrain, BUILD: build_from_catalogue}


def _publish(run: Run) -> None:
    """Embed, build and publish, until the release holds what the catalogue does."""
    num_shards = run.step("plan", plan_embedding)["num_shards"]
    for shard in range(num_shards):
        run.step(f"embed-{shard + 1}", partial(embed_shard, shard=shard))
    for attempt in range(_MOST_BUILDS):
        suffix = f"-{attempt + 1}" if attempt else ""
        run.step(f"build{suffix}", partial(build, attempt=attempt))
        if run.step(f"catch-up{suffix}", count_changes)["num_changes_left"] == 0:
            break
