"""Names of the files in an operation's folder, `operations/ID` below the home folder."""

UPLOAD = "upload"  # what came with the request: removed when the operation ends
ARCHIVE = f"{UPLOAD}/labels.zip"  # labelled images that came with a retrain
UNPACKED = f"{UPLOAD}/unpacked"  # the archive of a retrain or an import, unpacked while it is imported
SNAPSHOT = "snapshot.ndjson"  # manifest of the images that the run trains on
SNAPSHOT_ROWS = "snapshot-rows.json"  # the same rows with digests, for the later steps
RUN = "run"  # the training run: checkpoint, metrics, report
BASE = "base"  # copy of the model that training starts from, unless it is a published one
TRAINING_LOG = "training.log"
TRAINING_PROGRESS = "training-progress.json"
