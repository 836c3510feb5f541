"""The worker: a process that performs queued operations."""
