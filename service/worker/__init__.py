"""Perform queued operations."""
