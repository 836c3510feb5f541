"""What a person sees of a run: log, progress, curves, nearest neighbours, one page."""
