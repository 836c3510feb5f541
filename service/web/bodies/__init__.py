"""Read request bodies, bounded in bytes and time."""
