"""The release answers for its images, the database for all others."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from service.releases.image_names import ImageNames
from service.serving import shown_images
from service.serving.engine import LiveEngine
from service.serving.shown_images import ShownImages
from service.storage.database import Database
from service.storage.errors import DatabaseUnavailable
from service.storage.media import MediaName
from tests.fakes import Clock

IN_RELEASE, IN_DATABASE, EXAMPLE = (MediaName(digit * 64, "png") for digit in "123")


class Release:
    """A live engine that shows one image."""

    names = ImageNames.of([[str(IN_RELEASE)]])

    def shows(self, name):
        return name in self.names


@pytest.fixture
def asked(monkeypatch):
    """Names that the database was asked about; it knows one as an image of the catalogue."""
    names = []

    def is_catalogue_image(_, name):
        names.append(name)
        return name == IN_DATABASE

    monkeypatch.setattr(shown_images, "is_catalogue_image", is_catalogue_image)
    return names


def answers(*names, clock=None, before_each=lambda: None):
    async def ask():
        with ThreadPoolExecutor(1) as pool:
            live, database = cast(LiveEngine, Release()), cast(Database, None)
            shown = ShownImages(live, database, pool, clock=clock or Clock())
            found = []
            for name in names:
                before_each()
                found.append(await shown.shows(name))
            return found

    return asyncio.run(ask())


def test_images_of_the_release_need_no_database(asked):
    assert answers(IN_RELEASE, IN_RELEASE) == [True, True]
    assert asked == []


def test_the_database_decides_on_all_others_and_its_answers_are_kept_for_seconds(asked):
    assert answers(IN_DATABASE, EXAMPLE, IN_DATABASE, EXAMPLE) == [True, False, True, False]
    assert asked == [IN_DATABASE, EXAMPLE]


def test_answers_expire(asked):
    clock = Clock()

    def pass_time():
        clock.seconds += 6

    assert answers(EXAMPLE, EXAMPLE, clock=clock, before_each=pass_time) == [False, False]
    assert asked == [EXAMPLE, EXAMPLE]


def test_a_limited_number_of_answers_is_kept(asked, monkeypatch):
    monkeypatch.setattr(shown_images, "_MAX_KEPT", 2)
    names = [MediaName(f"{number:064x}", "png") for number in range(3)]

    answers(*names, names[2], names[1], names[0])

    assert asked == [*names, names[0]]


def test_without_the_database_only_images_of_the_release_are_known(monkeypatch):
    def away(*_):
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(shown_images, "is_catalogue_image", away)

    assert answers(IN_RELEASE) == [True]
    with pytest.raises(DatabaseUnavailable):
        answers(IN_DATABASE)
