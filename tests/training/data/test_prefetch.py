import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from training.data.prefetch import map_ahead


def test_results_come_in_the_order_of_the_items():
    with ThreadPoolExecutor(3) as pool:
        assert list(map_ahead(pool, lambda number: number * number, range(20), 5)) == [n * n for n in range(20)]


def test_no_more_items_are_taken_than_may_wait():
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, str, items(), 3)
        assert [next(results), next(results)] == ["0", "1"]
        assert len(taken) == 4
        results.close()


def test_an_exception_is_raised_in_its_place_and_cancels_what_waits():
    gate, begun = threading.Event(), []

    def work(number):
        begun.append(number)
        if number == 1:
            raise ValueError("one")
        if number == 2:
            gate.wait()
        return number

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, work, range(9), 5)
        assert next(results) == 0
        with pytest.raises(ValueError, match="one"):
            next(results)
        gate.set()

    assert begun in ([0, 1], [0, 1, 2])


def test_closing_early_cancels_what_waits():
    gate, begun = threading.Event(), []

    def work(number):
        begun.append(number)
        if number == 1:
            gate.wait()

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, work, range(9), 5)
        next(results)
        results.close()
        gate.set()

    assert len(begun) <= 2
