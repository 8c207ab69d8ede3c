"""Work ahead of its use: same items, same order, errors in their place, no thread left."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.data.ahead import ahead, in_order


@given(st.lists(st.integers(), max_size=20), st.integers(0, 5))
@settings(deadline=None)  # threads start when the machine lets them
def test_the_same_items_come_in_the_same_order(items, depth):
    assert list(ahead(iter(items), depth)) == items


@given(st.integers(0, 20), st.integers(0, 5))
@settings(deadline=None)
def test_results_come_in_order(count, workers):
    assert list(in_order(lambda n: n * n, range(count), workers)) == [n * n for n in range(count)]


def test_results_come_in_order_though_later_ones_are_ready_first():
    def work(n):
        time.sleep(0.03 if n % 3 == 0 else 0)
        return n

    assert list(in_order(work, range(9), 3)) == list(range(9))


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_an_error_comes_where_its_item_would_have(depth):
    def items():
        yield 1
        yield 2
        raise KeyError("third")

    iterator = ahead(items(), depth)
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(iterator)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_of_a_worker_comes_where_its_result_would_have(workers):
    iterator = in_order(lambda n: 1 // (n - 2), range(9), workers)
    assert [next(iterator), next(iterator)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(iterator)


def test_items_are_made_before_they_are_asked_for_and_no_more_than_may_wait():
    made = []

    def items():
        for n in range(100):
            made.append(n)
            yield n

    iterator = ahead(items(), 3)
    assert next(iterator) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made) == 1 + 3 + 1  # used, waiting, and one for which there is no place yet
    iterator.close()


def test_the_next_result_is_under_way_while_one_is_used():
    begun = [threading.Event() for _ in range(3)]

    def work(n):
        begun[n].set()
        return n

    iterator = in_order(work, range(3), 1)
    next(iterator)
    assert begun[1].wait(5)
    assert not begun[2].is_set()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_call_ends_before_the_one_that_many_later_begins(workers):
    """So each worker may keep a file open of its own."""
    running = [0] * workers

    def work(n):
        running[n % workers] += 1
        assert running[n % workers] == 1
        time.sleep(0.002)
        running[n % workers] -= 1
        return n

    assert list(in_order(work, range(30), workers)) == list(range(30))


def test_closing_ends_the_thread():
    before = threading.active_count()
    iterator = ahead(iter(range(1000)), 2)
    next(iterator)
    assert threading.active_count() == before + 1
    iterator.close()
    assert threading.active_count() == before
