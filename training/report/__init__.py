"""What users see of a run: log, progress, curves, nearest neighbours and a report page."""
