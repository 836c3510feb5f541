"""Lists come in pages from the database: pages together are the whole list, whatever is added meanwhile."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.access.errors import KeyNotFound
from service.access.keys import list_keys
from service.evaluations.errors import EvaluationNotFound
from service.evaluations.queries import list_evaluations
from service.releases.errors import ReleaseNotFound
from service.releases.queries import list_activations, list_releases
from service.storage.tables.access import APIKey
from service.storage.tables.evaluations import Evaluation
from service.storage.tables.releases import ActivationEvent, Release

# Two rows of each time: the order within them must be total too.
TIMES = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=n // 2) for n in range(7)]


@pytest.fixture
def database(installation):
    """A database with seven rows in each table of a list."""
    with installation.database.transaction() as session:
        for n, moment in enumerate(TIMES):
            session.add_all([
                Release(
                    id=f"r{n}", created_at=moment, space_id="s", index_id="i", watermark=0, num_products=0, num_images=0
                ),
                ActivationEvent(version=n + 1, release_id="r0", activated_at=moment, activated_by="a", reason=""),
                Evaluation(
                    id=f"e{n}", evaluation_set_id="s", space_id="s", created_at=moment, num_queries=0, metrics={}
                ),
                APIKey(id=f"k{n}", name=f"key-{n}", sha256=f"{n}", scopes=["search"], created_at=moment),
            ])  # fmt: skip
    return installation.database


def releases(database, **options):
    return [listed.release for listed in list_releases(database, **options).releases]


LISTS: dict[str, tuple[Callable[..., list[Any]], str, Callable[[Any], object]]] = {
    "releases": (releases, "before", lambda row: row.id),
    "activations": (list_activations, "before", lambda row: row.version),
    "evaluations": (list_evaluations, "before", lambda row: row.id),
    "keys": (list_keys, "after", lambda row: row.name),
}


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("name", LISTS)
def test_pages_together_are_the_whole_list(database, name, limit):
    read, parameter, key_of = LISTS[name]
    whole = [key_of(row) for row in read(database, limit=100)]

    found: list[object] = []
    while page := read(database, limit=limit, **({parameter: found[-1]} if found else {})):
        assert len(page) <= limit
        found += [key_of(row) for row in page]

    assert found == whole
    assert len(found) == len(TIMES)


def test_a_page_after_an_unknown_row_is_refused(database):
    with pytest.raises(ReleaseNotFound, match="'zebra'; begin with the first page again"):
        list_releases(database, before="zebra")
    with pytest.raises(EvaluationNotFound, match="'zebra'; begin with the first page again"):
        list_evaluations(database, before="zebra")
    with pytest.raises(KeyNotFound, match="'zebra'"):
        list_keys(database, after="zebra")
