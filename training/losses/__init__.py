"""Metric learning losses on the allowed pairs of a batch."""
