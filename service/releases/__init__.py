"""Build, choose and retire releases."""
