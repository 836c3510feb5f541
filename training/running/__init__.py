"""One run of training, from a path to a folder with a checkpoint and a report."""
