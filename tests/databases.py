"""A real PostgreSQL for tests, started from a wheel, and empty databases on it."""

import uuid

import psycopg


def new_database(server: str) -> str:
    """Make an empty database on a server and return its address, as the settings take it."""
    name = f"akin_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    base, _, query = server.partition("?")
    address = base.rpartition("/")[0].replace("postgresql://", "postgresql+psycopg://") + f"/{name}"
    return f"{address}?{query}" if query else address
