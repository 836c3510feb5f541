"""First steps of a retrain: import the labels of the request, then fix the training images and the evaluation set.

Each leaves files that are written atomically, and may be repeated: the files of an earlier try are replaced.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding.runtimes.network import choose_device
from embedding.whole_files import write_whole
from service.catalogue.records import LabelledImage, labelled_images
from service.evaluations.records import set_path
from service.operations.errors import InvalidOperation
from service.operations.folder import SNAPSHOT, SNAPSHOT_ROWS
from service.operations.requests import FIXED_SPLIT_SETTINGS, RetrainRequest
from service.worker.run import Facts, Run
from service.worker.steps.importing import import_labels_of_retrain
from training.config import TrainingConfig
from training.data.snapshot import Snapshot, SnapshotImage, snapshot_of
from training.data.splits import Split, held_out_images, split_snapshot
from training.errors import UnfitData
from training.evaluation.evaluation_set import evaluation_set_of


def request_of(run: Run) -> RetrainRequest:
    """Return the request of a retrain, without the digest of its archive, which is recorded beside it."""
    return RetrainRequest.model_validate({name: value for name, value in run.request.items() if name != "archive"})


def config_of(run: Run) -> TrainingConfig:
    """Return the configuration of the training run."""
    return request_of(run).config(run.facts["preset"])


def import_labels(run: Run) -> Facts:
    """Import the labelled images of the request's archive, if there is one, and choose the preset.

    A request without a preset gets the default of `akin train`. It is chosen once: a worker that continues the
    operation may have another device.
    """
    device = choose_device(run.installation.settings.device, "float32")
    facts: Facts = {"preset": request_of(run).preset or ("small" if device.type == "cuda" else "head")}
    if not run.request.get("archive"):
        return facts
    return {**facts, "labels": import_labels_of_retrain(run)}


def take_snapshot(run: Run) -> Facts:
    """Write the manifest of the images to train on, with their labels; its hash identifies it."""
    installation = run.installation
    with installation.database.reading() as session:
        images = labelled_images(session)
    if not images:
        raise InvalidOperation("the catalogue has no images to train on; import some: akin catalogue import PATH")
    config = config_of(run)
    snapshot = _snapshot_of(images)
    since = request_of(run).data
    if isinstance(since, datetime):
        try:
            split = split_snapshot(snapshot, config.split)
        except UnfitData as error:
            raise _too_little_data(error) from error
        snapshot = _snapshot_of(_since(images, snapshot, split, since))
    cache = installation.settings.cache_dir / "media"
    media_of = {image.media_name.sha256: image.media_name for image in images}
    lines = []
    for number, image in enumerate(snapshot.images):
        path = installation.media_store.local_file(media_of[image.sha256], cache)
        lines.append(json.dumps({"image": str(path), "label": image.label, "role": image.role}))
        run.report("Collecting images", number + 1, len(snapshot.images))
    run.folder.mkdir(parents=True, exist_ok=True)
    write_whole(run.folder / SNAPSHOT, ("\n".join(lines) + "\n").encode())
    # The digests are stored beside it, so that later steps know the same rows without reading every image.
    rows = [[image.location, image.label, image.role, image.sha256] for image in snapshot.images]
    write_whole(run.folder / SNAPSHOT_ROWS, json.dumps(rows).encode())
    return {
        "snapshot": {
            "hash": snapshot.snapshot_hash,
            "num_images": len(snapshot.images),
            "num_classes": len(set(snapshot.labels)),
            "num_examples": sum(image.role == "example" for image in snapshot.images),
        }
    }


def split(run: Run) -> Facts:
    """Write the evaluation set; its id accompanies every measurement on it."""
    config = config_of(run)
    snapshot = read_snapshot_rows(run)
    try:
        parts = split_snapshot(snapshot, config.split)
        evaluation_set = evaluation_set_of(snapshot, parts, config.evaluation.bounds)
    except UnfitData as error:
        raise _too_little_data(error) from error
    # Written even if the file exists: the bytes are the same, and a damaged file is repaired.
    evaluation_set.write(set_path(run.installation.settings, evaluation_set.evaluation_set_id))
    num_unseen = int(np.count_nonzero(evaluation_set.is_unseen))
    return {
        "evaluation_set": {
            "id": evaluation_set.evaluation_set_id,
            "num_queries": len(evaluation_set.queries),
            "num_queries_unseen": num_unseen,
            "num_gallery_images": len(evaluation_set.gallery),
            "num_distractors": evaluation_set.num_distractors,
            "num_catalogue_images": sum(image.role == "catalogue" for image in snapshot.images),
            "num_unseen_classes": len(parts.unseen_classes),
        },
        "num_training_images": len(parts.train),
        "num_training_classes": len({snapshot.images[position].label for position in parts.train}),
        "notes": list(parts.notes),
    }


def _too_little_data(error: UnfitData) -> UnfitData:
    """Return the error as it applies to a retrain, whose test is always chosen by the same hashes."""
    known = error.without_advice_on(FIXED_SPLIT_SETTINGS)
    come = "images come with akin catalogue import PATH, labelled photos of products with akin labels import PATH"
    return UnfitData(f"the catalogue cannot be trained on: {known} ({come})")


def read_snapshot_rows(run: Run) -> Snapshot:
    """Read the rows of the operation's snapshot."""
    rows = json.loads((run.folder / SNAPSHOT_ROWS).read_bytes())
    return snapshot_of(
        "catalogue",
        [SnapshotImage(location, Path(), label, role, "", sha256) for location, label, role, sha256 in rows],
    )


def _snapshot_of(images: Sequence[LabelledImage]) -> Snapshot:
    rows = [
        SnapshotImage(
            image.image_id, Path(), image.label, "example" if image.role == "example" else "catalogue", "",
            image.media_name.sha256,
        )
        for image in images
    ]  # fmt: skip
    return snapshot_of("catalogue", rows)


def _since(images: Sequence[LabelledImage], snapshot: Snapshot, parts: Split, since: datetime) -> list[LabelledImage]:
    """Drop the examples labelled before `since`, except held-out ones: measurements never depend on `since`."""
    is_held_out: NDArray[np.bool_] = held_out_images(snapshot, parts)
    held_out = {image.location for image, is_out in zip(snapshot.images, is_held_out, strict=True) if is_out}
    is_new = {image.image_id for image in images if image.role == "example" and image.labelled_at >= since}
    if not is_new - held_out:
        raise InvalidOperation(f"no example outside the held-out set was labelled since {since.isoformat()}")
    return [
        image for image in images if image.role != "example" or image.image_id in is_new or image.image_id in held_out
    ]
