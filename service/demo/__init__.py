"""Try Akin without data."""
