"""Losses of metric learning on the allowed pairs of a batch."""
