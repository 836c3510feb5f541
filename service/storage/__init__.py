"""Rows and bytes: the database with its tables, the store of images, the disk."""
