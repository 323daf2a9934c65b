# SPDX-License-Identifier: Apache-2.0
"""``threads.py``: results in order, with few calls and few bytes ahead."""

import threading
import time

import pytest

from lucidworks_provider.threads import AHEAD, MAX_EXCESS, read_ahead


def test_results_come_in_order_and_are_read_ahead() -> None:
    def slow(item: int) -> int:
        time.sleep(0.05 if item % 2 else 0.01)
        return item

    begin = time.monotonic()
    assert list(read_ahead(slow, range(100))) == list(range(100))
    assert time.monotonic() - begin < 2  # 3 s one after the other


def test_the_first_call_is_made_by_the_caller() -> None:
    def slow(_: int) -> threading.Thread:
        time.sleep(2 * MAX_EXCESS)
        return threading.current_thread()

    threads = list(read_ahead(slow, range(8)))
    assert threads[0] is threading.current_thread()
    assert threading.current_thread() not in threads[2:]


def test_short_calls_are_made_by_the_caller() -> None:
    """As with a local disk; a pause now and then, as of a busy machine, changes nothing."""

    def work(item: int) -> threading.Thread:
        if item % 50 == 10:
            time.sleep(MAX_EXCESS / 2)
        return threading.current_thread()

    assert set(read_ahead(work, range(200))) == {threading.current_thread()}


@pytest.mark.parametrize(("size", "ahead"), [(0, AHEAD), (10, 3), (31, 1)])
def test_no_more_is_held_than_allowed(size: int, ahead: int) -> None:
    begun = 0
    lock = threading.Lock()

    def count(_: int) -> None:
        nonlocal begun
        if begun < 3:
            time.sleep(MAX_EXCESS)
        with lock:
            begun += 1

    for taken, _ in enumerate(read_ahead(count, range(50), size=lambda _: size, max_bytes=30), 1):
        time.sleep(0.005)
        assert begun <= taken + ahead


def test_an_error_comes_at_its_item_and_ends_the_rest() -> None:
    called = []

    def fail(item: int) -> int:
        called.append(item)
        if item < 3:
            time.sleep(MAX_EXCESS)
        if item == 5:
            raise OSError("no")
        return item

    results = read_ahead(fail, range(10_000))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="no"):
        next(results)
    assert len(called) <= 5 + 2 * AHEAD
