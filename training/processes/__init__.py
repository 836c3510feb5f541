"""Processes that train, and their ends."""
