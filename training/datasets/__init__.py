"""Layouts of labelled pictures on disk, each read into rows of one form."""
