"""Labelled images to a checkpoint and a report. Nothing is trained yet: this room is reserved."""
