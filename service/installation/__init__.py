"""One installation: its settings, its folder, and the processes that run on it."""
