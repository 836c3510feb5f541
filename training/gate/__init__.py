"""Whether a candidate is better than the active model."""
