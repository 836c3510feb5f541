"""Readers of the supported layouts of labelled images, with a common result."""
