"""The steps that embed the catalogue with the model of the release to build, in shards that are recorded one by one."""

import math
import time
from pathlib import Path

from embedding.checkpoint import load_embedder
from embedding.stages import StageReport
from service.catalogue.errors import EmptyCatalogue
from service.catalogue.records import read_catalogue
from service.embeddings.stored import OnEmbedded, embed_missing
from service.operations.folder import RUN
from service.releases.build import default_checkpoint, only_builder
from service.releases.errors import BuilderBusy
from service.releases.records import ActiveRelease, active_release
from service.storage.database import now
from service.worker.run import Facts, Run
from training.running.run import CHECKPOINT

_SHARD_IMAGES = 2048
_MAX_SHARDS = 64
_LOCK_POLL_SECONDS = 1.0


def plan_embedding(run: Run) -> Facts:
    """Choose the release's id and checkpoint, and the number of shards."""
    with run.installation.database.reading() as session:
        num_images = len(read_catalogue(session).images)
        active = active_release(session)
    if not num_images:
        raise EmptyCatalogue(
            "the catalogue has no image of role 'catalogue' to index; import some: akin catalogue import PATH"
        )
    facts: Facts = {
        "num_shards": min(math.ceil(num_images / _SHARD_IMAGES), _MAX_SHARDS),
        "release_id": f"{now():%Y%m%d-%H%M%S}-{run.operation_id[-6:]}",
        "checkpoint": str(_checkpoint(run, active)),
    }
    if run.facts.get("candidate") is None:
        # The release that the new one replaces; for a retrain, the evaluation has recorded it.
        facts |= {"compared_release_id": active.release_id, "compared_version": active.version}
    return facts


def embed_shard(run: Run, shard: int) -> Facts:
    """Embed the images of one shard that have no embedding in the model's space yet.

    An image's shard depends on its digest alone, so that a changed catalogue moves no image to another shard.
    """
    installation, num_shards = run.installation, run.facts["num_shards"]
    settings = installation.settings
    with installation.database.reading() as session:
        names = [image.media_name for image in read_catalogue(session).images]
    in_shard = [name for name in names if int(name.sha256[:8], 16) % num_shards == shard]
    embedder = load_embedder(Path(run.facts["checkpoint"]), settings.network_options.for_bulk())
    num_embedded = embed_missing(
        installation.database,
        installation.media_store,
        embedder,
        in_shard,
        limits=installation.limits,
        on_progress=embedding_progress(run, f"Embedding shard {shard + 1} of {num_shards}"),
    )
    return {f"num_embedded_{shard}": num_embedded}


def embedding_progress(run: Run, title: str) -> OnEmbedded:
    """Return a function that reports progress under this title, with the rate of each stage, and counts metrics."""
    counted = StageReport()

    def report(done: int, total: int, stages: StageReport | None = None, /) -> None:
        nonlocal counted
        if stages is None:
            stages = counted
        run.record_stages(stages - counted)
        counted = stages
        run.report(title, done, total, stage_rates={stage: round(rate, 1) for stage, rate in stages.rates().items()})

    return report


def _checkpoint(run: Run, active: ActiveRelease) -> Path:
    if run.facts.get("candidate") is not None:
        return run.folder / RUN / CHECKPOINT
    while True:
        try:
            # Without an active release, this writes the untrained checkpoint. A build that runs at the same time would
            # delete the unfinished files as abandoned.
            with only_builder(run.installation.settings):
                return default_checkpoint(run.installation, active)
        except BuilderBusy:
            wait_for_builder(run)


def wait_for_builder(run: Run) -> None:
    """Pause while another process holds the builder's lock; raises like `Run.check`."""
    run.check()
    time.sleep(_LOCK_POLL_SECONDS)
