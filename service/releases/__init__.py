"""Build, activate and retire releases."""
