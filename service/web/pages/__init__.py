"""HTML pages and their files."""
