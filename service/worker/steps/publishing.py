"""The steps that turn a proven model into what is served: embed by shards, build, publish, activate, see it served."""

import math
import shutil
import time
from datetime import datetime
from pathlib import Path

import structlog

from embedding.checkpoint import load_embedder, read_checkpoint_facts
from index.errors import LowRecall
from index.structures import IndexOptions
from service.catalogue.errors import EmptyCatalogue
from service.catalogue.records import num_changes_after, read_catalogue
from service.embeddings.stored import embed_missing
from service.errors import ServiceError
from service.evaluations.records import assign_release
from service.installation.processes import API, living_processes
from service.operations.folder import ARCHIVE, BASE, RUN, UNPACKED
from service.operations.records import own_operation
from service.releases.build import ReleaseOrigin, build_release, default_checkpoint
from service.releases.errors import ActivationConflict, BuilderBusy
from service.releases.records import ActiveRelease, activate_release, activation_of_operation, active_release
from service.releases.retention import retire_old_releases
from service.storage.database import in_utc, now
from service.storage.tables.operations import CANCELLED
from service.worker.run import Ended, Facts, Run, reject
from service.worker.steps.evaluation import judge
from service.worker.steps.preparation import request_of
from training.run import CHECKPOINT, STATE

_SHARD_IMAGES = 2048
_MOST_SHARDS = 64
# How long activation is watched: past that, a server that does not take the release up is told of, not waited for.
_CONVERGENCE_SECONDS = 60.0
_LOCK_POLL_SECONDS = 1.0

log = structlog.get_logger(__name__)


def plan_embedding(run: Run) -> Facts:
    """Say how many shards the catalogue is embedded in; an image's shard depends on its digest alone."""
    with run.installation.database.reading() as session:
        num_images = len(read_catalogue(session).images)
        active = active_release(session)
    if not num_images:
        raise EmptyCatalogue(
            "the catalogue has no image of role 'catalogue' to index; import some: akin catalogue import PATH"
        )
    facts: Facts = {
        "num_shards": min(math.ceil(num_images / _SHARD_IMAGES), _MOST_SHARDS),
        "release_id": f"{now():%Y%m%d-%H%M%S}-{run.operation_id[-6:]}",
        "checkpoint": str(_checkpoint(run, active)),
    }
    if run.facts.get("candidate") is None:
        # What this release is to follow; a retrain has it from its evaluation.
        facts |= {"compared_release_id": active.release_id, "compared_version": active.version}
    return facts


def embed_shard(run: Run, shard: int) -> Facts:
    """Embed one shard of the catalogue in the new space; what is embedded already is not embedded again."""
    installation, num_shards = run.installation, run.facts["num_shards"]
    settings = installation.settings
    with installation.database.reading() as session:
        names = [image.media_name for image in read_catalogue(session).images]
    mine = [name for name in names if int(name.sha256[:8], 16) % num_shards == shard]
    embedder = load_embedder(Path(run.facts["checkpoint"]), device=settings.device, precision=settings.precision)
    num_embedded = embed_missing(
        installation.database,
        installation.media_store,
        embedder,
        mine,
        limits=installation.limits,
        on_progress=lambda done, total: run.report(f"Embedding shard {shard + 1} of {num_shards}", done, total),
    )
    return {f"num_embedded_{shard}": num_embedded}


def build(run: Run, attempt: int) -> Facts:
    """Build index and release of the catalogue as it is now, and publish; not served by that.

    What changed since the shards were embedded is embedded here, so that nothing is missing.
    """
    release_id = run.facts["release_id"] + (f"-{attempt + 1}" if attempt else "")
    is_retrain = run.facts.get("candidate") is not None
    options = IndexOptions()
    if is_retrain:
        policy = request_of(run).policy()
        # Forced, it is published whatever its index finds, and the verdict says what that is.
        options = IndexOptions(min_ann_recall=0.0 if policy.force else policy.min_index_recall)
    evaluation = _evaluation_facts(run) if is_retrain else None
    while True:
        run.report("Building the index", 0, 1)
        try:
            built = build_release(
                run.installation,
                checkpoint=Path(run.facts["checkpoint"]),
                options=options,
                activate=False,
                origin=ReleaseOrigin(release_id, run.operation_id, evaluation),
                on_progress=lambda done, total: run.report("Embedding what changed meanwhile", done, total),
            )
        except BuilderBusy:
            _pause(run)
        except LowRecall as error:
            raise reject("index-recall", str(error)) from error
        else:
            break
    facts: Facts = {
        "release": {
            "release_id": built.release_id,
            "watermark": built.watermark,
            "num_products": built.num_products,
            "num_images": built.num_images,
            "num_caught_up": built.num_embedded,
            "index": built.index,
        }
    }
    if is_retrain:
        with run.installation.database.transaction() as session:
            assign_release(session, run.facts["candidate"]["evaluation_id"], built.release_id)
        verdict = judge(run, built.index_recall)
        facts["verdict"] = verdict.to_json()
        if not verdict.promote:
            raise reject("gate", "; ".join(it.message for it in verdict.reasons if not it.is_met), facts)
    return facts


def count_changes(run: Run) -> Facts:
    """Say how much of the catalogue changed since the release was built from it."""
    with run.installation.database.reading() as session:
        return {"num_changes_left": num_changes_after(session, run.facts["release"]["watermark"])}


def activate(run: Run) -> Facts:
    """Serve the release, unless another was activated since this one was compared; a repeated activation is none."""
    release_id = run.facts["release"]["release_id"]
    with run.installation.database.transaction() as session:
        operation = own_operation(session, run.operation_id, run.worker_id)
        done = activation_of_operation(session, run.operation_id)
        if done is not None:
            return _activated(done.activated_at)
        if operation.cancel_requested_at is not None:
            raise Ended(CANCELLED, "cancelled", "cancelled on request")
        current = active_release(session)
        expected = ActiveRelease(run.facts["compared_release_id"], None, run.facts["compared_version"], None)
        try:
            activate_release(
                session,
                release_id,
                expected=expected,
                actor=run.created_by,
                reason=str(run.request.get("note") or f"operation {run.operation_id}"),
                operation_id=run.operation_id,
            )
        except ActivationConflict as error:
            raise _overtaken(release_id, current, expected) from error
    return _activated(now())


def watch_convergence(run: Run) -> Facts:
    """Wait until all living servers answer from the release, and say which do; one that refuses is told of."""
    release_id = run.facts["release"]["release_id"]
    until = time.monotonic() + _CONVERGENCE_SECONDS
    while True:
        with run.installation.database.reading() as session:
            servers = living_processes(session, API)
            is_active = active_release(session).release_id == release_id
        served = [server for server in servers if server.release_id == release_id]
        refusals = {server.id: server.refusal for server in servers if server.refusal}
        num_settled = len(served) + len([server for server in servers if server.refusal and server not in served])
        run.report("Servers take up the release", num_settled, len(servers))
        if num_settled == len(servers) or not is_active or time.monotonic() > until:
            break
        time.sleep(0.2)
    if refusals:
        log.error("release_refused_by_servers", release_id=release_id, refusals=refusals)
    return {"served_by": [f"{server.host}:{server.pid}" for server in served], "refusals": refusals}


def tidy(run: Run) -> Facts:
    """Remove releases beyond those that are kept, and embeddings that nothing needs any more."""
    needed = [release["release_id"]] if (release := run.facts.get("release")) else []
    while True:
        try:
            return {"retired_releases": retire_old_releases(run.installation, needed=needed)}
        except BuilderBusy:
            _pause(run)
        except ServiceError as error:
            # What was to be done is done: old releases left on the disk are no reason to call it failed.
            log.warning("releases_not_retired", operation_id=run.operation_id, reason=str(error))
            return {"retired_releases": [], "retention_error": str(error)}


def clean_up(run: Run, *, is_published: bool) -> None:
    """Remove what only an operation under way needs, however it ended; repeatable, and no failure of the operation."""
    for name in (BASE, UNPACKED, f"{RUN}/{STATE}"):
        shutil.rmtree(run.folder / name, ignore_errors=True)
    (run.folder / ARCHIVE).unlink(missing_ok=True)
    if is_published:
        return  # its last step has tidied
    try:
        # Among other things what was embedded with a candidate that nothing came of.
        retire_old_releases(run.installation)
    except (ServiceError, OSError) as error:
        log.warning("releases_not_retired", operation_id=run.operation_id, reason=str(error))


def _checkpoint(run: Run, active: ActiveRelease) -> Path:
    if run.facts.get("candidate") is not None:
        return run.folder / RUN / CHECKPOINT
    return default_checkpoint(run.installation, active)


def _evaluation_facts(run: Run) -> Facts:
    candidate = run.facts["candidate"]
    return {
        "evaluation_set_id": run.facts["evaluation_set"]["id"],
        "evaluation_id": candidate["evaluation_id"],
        "metrics": candidate["metrics"],
        "compared_release_id": run.facts["compared_release_id"],
        "verdict": run.facts["verdict"],
        "operation_id": run.operation_id,
        "space_id": read_checkpoint_facts(Path(run.facts["checkpoint"])).space_id,
    }


def _activated(moment: datetime) -> Facts:
    return {"is_active": True, "activated_at": in_utc(moment).isoformat(timespec="milliseconds")}


def _overtaken(release_id: str, current: ActiveRelease, expected: ActiveRelease) -> Exception:
    return reject(
        "active-release-changed",
        f"release {current.release_id} was activated while this one was compared with {expected.release_id}; "
        f"{release_id} is published and not active: activate it by hand, or retrain to compare anew",
        {"is_active": False},
    )


def _pause(run: Run) -> None:
    run.check()
    time.sleep(_LOCK_POLL_SECONDS)
