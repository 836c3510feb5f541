"""Exact retrieval and clustering metrics on held-out images."""
