"""The steps that build, publish and activate a release, and watch the servers load it."""

import shutil
import time
from datetime import datetime
from pathlib import Path

import structlog

from embedding.checkpoint import read_checkpoint_facts
from index.errors import LowRecall
from index.structures import IndexOptions
from service.catalogue.records import num_changes_after
from service.errors import KNOWN_ERRORS, ServiceError, reason_of
from service.evaluations.records import assign_release
from service.installation.processes import API, living_processes
from service.operations.claims import own_operation
from service.operations.folder import BASE, RUN
from service.releases.build import BuiltRelease, ReleaseOrigin, build_release
from service.releases.errors import ActivationConflict, BuilderBusy, ReleaseError
from service.releases.records import ActiveRelease, activate_release, activation_of_operation, active_release
from service.releases.retention import remove_unused_release, retire_old_releases
from service.storage.database import in_utc
from service.storage.errors import DatabaseUnavailable
from service.storage.tables.operations import CANCELLED, REJECTED
from service.worker.run import Ended, Facts, Run, reject
from service.worker.steps.embedding import embedding_progress, wait_for_builder
from service.worker.steps.evaluation import judge, unmet_reasons
from service.worker.steps.snapshot import request_of
from training.running.run import STATE

# How long the servers are watched; one that has not loaded the release by then is reported, not awaited.
_CONVERGENCE_SECONDS = 60.0
# How many changes a second build catches up with: these, or this share of the release's images.
_FEW_CHANGES, _SMALL_SHARE = 1000, 0.1

log = structlog.get_logger(__name__)


def build(run: Run) -> Facts:
    """Build and publish a release of the current catalogue, without activating it.

    Images that were added since the shards were embedded are embedded here.
    """
    return _build(run, run.facts["release_id"])


def build_again(run: Run) -> Facts:
    """Build and publish a release that also has the latest changes, and remove the one that it supersedes.

    If this fails, the operation goes on with the release that it has.
    """
    superseded = run.facts["release"]["release_id"]
    try:
        facts = _build(run, f"{run.facts['release_id']}-2")
    except DatabaseUnavailable:
        raise
    except (Ended, *KNOWN_ERRORS, OSError) as error:
        if isinstance(error, Ended) and error.state != REJECTED:
            raise
        log.warning("release_not_caught_up", operation_id=run.operation_id, reason=reason_of(error))
        return {"catch_up_error": str(error)}
    while True:
        try:
            remove_unused_release(run.installation, superseded)
        except BuilderBusy:
            wait_for_builder(run)
        except ReleaseError as error:
            # The next retirement of old releases removes it.
            log.warning("release_not_removed", operation_id=run.operation_id, reason=str(error))
            return facts
        else:
            return facts


def _build(run: Run, release_id: str) -> Facts:
    is_retrain = run.facts.get("candidate") is not None
    options = IndexOptions()
    if is_retrain:
        policy = request_of(run).policy()
        # With `force`, a release is published whatever the recall of its index; the verdict records it.
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
                on_progress=embedding_progress(run, "Embedding new images"),
            )
        except BuilderBusy:
            wait_for_builder(run)
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
        facts["verdict"] = _judge_release(run, built, facts)
    return facts


def _judge_release(run: Run, built: BuiltRelease, facts: Facts) -> Facts:
    """Record the release with its evaluation, and return the gate's verdict with the recall of the index."""
    with run.installation.database.transaction() as session:
        assign_release(session, run.facts["candidate"]["evaluation_id"], built.release_id)
    verdict = judge(run, built.index_recall)
    if not verdict.promote:
        raise reject("gate", unmet_reasons(verdict), {**facts, "verdict": verdict.to_json()})
    return verdict.to_json()


def count_changes(run: Run) -> Facts:
    """Count the changes of the catalogue since the release was read from it, and decide whether to catch up.

    Few changes take little more than the build of the index. Many take long, and more are made meanwhile: they are
    reported, for a build that is requested when the catalogue is complete.
    """
    release = run.facts["release"]
    with run.installation.database.reading() as session:
        num_changes = num_changes_after(session, release["watermark"])
    is_few = num_changes <= max(_FEW_CHANGES, round(_SMALL_SHARE * release["num_images"]))
    return {"num_changes_left": num_changes, "catches_up": num_changes > 0 and is_few}


def activate(run: Run) -> Facts:
    """Activate the release, unless another was activated since this one was compared with it; idempotent."""
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
            raise _active_release_changed(release_id, current, expected) from error
        done = activation_of_operation(session, run.operation_id)
        assert done is not None
        return _activated(done.activated_at)


def watch_convergence(run: Run) -> Facts:
    """Wait until all living servers answer from the release or refuse it, and report both."""
    release_id = run.facts["release"]["release_id"]
    until = time.monotonic() + _CONVERGENCE_SECONDS
    while True:
        with run.installation.database.reading() as session:
            servers = living_processes(session, API)
            is_active = active_release(session).release_id == release_id
        served = [server for server in servers if server.release_id == release_id]
        refusals = {server.id: server.refusal for server in servers if server.refusal}
        num_settled = len(served) + len([server for server in servers if server.refusal and server not in served])
        run.report("Servers load the release", num_settled, len(servers))
        if num_settled == len(servers) or not is_active or time.monotonic() > until:
            break
        time.sleep(0.2)
    if refusals:
        log.error("release_refused_by_servers", release_id=release_id, refusals=refusals)
    return {"served_by": [f"{server.host}:{server.pid}" for server in served], "refusals": refusals}


def tidy(run: Run) -> Facts:
    """Retire releases beyond those that are kept, and remove embeddings that nothing needs."""
    needed = [release["release_id"]] if (release := run.facts.get("release")) else []
    while True:
        try:
            return {"retired_releases": retire_old_releases(run.installation, needed=needed)}
        except BuilderBusy:
            wait_for_builder(run)
        except ServiceError as error:
            # The release is published; that old ones could not be removed does not fail the operation.
            log.warning("releases_not_retired", operation_id=run.operation_id, reason=str(error))
            return {"retired_releases": [], "retention_error": str(error)}


def clean_up(run: Run, *, is_published: bool) -> None:
    """Remove files that only an unfinished operation needs, however it ended; repeatable, errors are logged."""
    for name in (BASE, f"{RUN}/{STATE}"):
        shutil.rmtree(run.folder / name, ignore_errors=True)
    if is_published:
        return  # its last step has retired old releases
    try:
        # This also removes the embeddings of a candidate that was not published.
        retire_old_releases(run.installation)
    except (ServiceError, OSError) as error:
        log.warning("releases_not_retired", operation_id=run.operation_id, reason=str(error))


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


def _active_release_changed(release_id: str, current: ActiveRelease, expected: ActiveRelease) -> Exception:
    return reject(
        "active-release-changed",
        f"release {current.release_id} was activated while this one was compared with {expected.release_id}; "
        f"{release_id} is published but not active: activate it by hand, or request the operation again",
        {"is_active": False},
    )
