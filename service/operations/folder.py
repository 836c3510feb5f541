"""Names in the folder of an operation, `operations/ID` below the home folder."""

ARCHIVE = "labels.zip"  # what came with the request
SNAPSHOT = "snapshot.ndjson"  # what is trained on
SNAPSHOT_ROWS = "snapshot-rows.json"  # the same with digests, for the steps that follow
UNPACKED = "labels"  # the same unpacked, while it is taken in
RUN = "run"  # the training run: checkpoint, metrics, report
BASE = "base"  # the model that training starts from, where it is not a published one
TRAINING_LOG = "training.log"
TRAINING_PROGRESS = "training-progress.json"
