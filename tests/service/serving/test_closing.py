import threading
import weakref
from concurrent.futures import thread as thread_pools
from typing import Any

import pytest

from service.serving.closing import ReleaseCloser


class Release:
    """What stands for a release: an object of which it can be told when and where it is freed."""


@pytest.fixture
def closer():
    made = ReleaseCloser()
    yield made
    made.close()


def test_a_release_is_freed_in_the_thread_of_the_closer(closer):
    held, freed_in = [Release()], []
    freed = threading.Event()

    def note() -> None:
        freed_in.append(threading.current_thread().name)
        freed.set()

    weakref.finalize(held[0], note)

    closer.free(held)

    assert freed.wait(60)
    assert freed_in == ["close-release"]


def test_the_garbage_collector_may_free_a_release_while_a_thread_pool_takes_work(closer):
    """It runs in any thread at any point, also where the thread holds the lock of all thread pools."""
    held = [Release()]
    freed = threading.Event()
    weakref.finalize(held[0], freed.set)
    with thread_pools._global_shutdown_lock:
        closer.free(held)

        assert freed.wait(60)


def test_what_waits_is_freed_before_the_thread_ends():
    closer = ReleaseCloser()
    lists: list[list[Any]] = [[Release()] for _ in range(5)]
    for held in lists:
        closer.free(held)

    closer.close()

    assert lists == [[]] * 5
