"""Rows and bytes: the database with its tables, and the store of image files."""
