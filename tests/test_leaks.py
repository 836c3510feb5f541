"""The check for leaks finds each kind of resource, and ignores what wider scopes own."""

import logging
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.leaks import leak_check

PROGRAM = "import sys; print(flush=True); sys.stdin.read()"


@contextmanager
def thread():
    is_over = threading.Event()
    started = threading.Thread(target=is_over.wait, name="left-behind")
    started.start()
    yield
    is_over.set()
    started.join()


@contextmanager
def child_process():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


@contextmanager
def logging_handler():
    handler = logging.NullHandler()
    logging.getLogger("left.behind").addHandler(handler)
    yield
    logging.getLogger("left.behind").removeHandler(handler)


@contextmanager
def open_socket():
    with socket.socket():
        yield


def message_after(opened):
    check = leak_check(patience_seconds=0)
    next(check)
    with opened():
        return next(check)


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (thread, "threads behind: left-behind"),
        (child_process, f"child processes behind: {sys.executable} -c {PROGRAM}"),
        (logging_handler, "logging handlers behind: <NullHandler (NOTSET)> of left.behind"),
        (open_socket, "sockets behind: socket:["),
    ],
)
def test_each_kind_is_found_and_described(opened, message):
    assert message_after(opened).startswith(message)


@pytest.mark.parametrize("opened", [thread, child_process, logging_handler, open_socket])
def test_what_is_closed_is_not_reported(opened):
    check = leak_check(patience_seconds=0)
    next(check)

    with opened():
        pass

    assert next(check) == ""


def test_a_thread_that_ends_in_time_is_not_reported():
    check = leak_check()
    next(check)
    is_over = threading.Event()
    threading.Thread(target=is_over.wait).start()
    threading.Timer(0.01, is_over.set).start()

    assert next(check) == ""


def test_threads_started_by_earlier_threads_are_not_reported():
    """An application that several tests share starts threads of its pools when a request needs them."""
    with ThreadPoolExecutor(1) as application, ThreadPoolExecutor(1) as pool:
        application.submit(int).result()
        check = leak_check(patience_seconds=0)
        next(check)

        application.submit(lambda: pool.submit(int).result()).result()

        assert next(check) == ""


@pytest.fixture(scope="module")
def shared_socket():
    with socket.socket() as opened:
        yield opened


def test_fixtures_of_wider_scopes_may_be_requested_by_name(request):
    check = leak_check(patience_seconds=0)
    next(check)

    request.getfixturevalue("shared_socket")

    assert next(check) == ""
