"""Layouts of labelled images on disk, each read into rows of one form."""
