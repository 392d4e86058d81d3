"""Work in a child process: what comes back, and what an item that kills its process leaves of the others."""

import faulthandler
import os
import signal
import time

import numpy as np
import pytest

from cxrflow.spark.isolation import Crash, map_isolated

pytestmark = pytest.mark.cluster


def work(item):
    if item == "kill":
        faulthandler.disable()  # pytest's, which would print this process's stack
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(3)
    if item == "hang":
        time.sleep(60)
    if item == "raise":
        raise KeyError("what the function says")
    return item, np.full(40_000, 7, np.uint8)


def names(results):
    return [result.detail if isinstance(result, Crash) else result[0] for result in results]


def draw(item):
    return item, np.random.default_rng(item).integers(0, 255, 40_000, np.uint8)


@pytest.mark.parametrize("largest", [0, 39_999, 40_000])
def test_results_come_in_order_and_whole(largest):
    """Pickled, or through the memory that both share, where an array fits."""
    results = 0
    for number, (item, pixels) in enumerate(map_isolated(draw, range(300), largest_array=largest)):
        assert item == number
        np.testing.assert_array_equal(pixels, draw(number)[1])
        results += 1
    assert results == 300


def test_what_came_before_a_crash_and_after_it_is_whole():
    def deadly(item):
        return work("kill") if item % 7 == 3 else draw(item)

    for number, result in enumerate(map_isolated(deadly, range(60), largest_array=40_000)):
        if number % 7 == 3:
            assert result == Crash("killed by SIGSEGV")
        else:
            np.testing.assert_array_equal(result[1], draw(number)[1])


def test_an_item_that_kills_its_process_takes_nothing_else():
    assert names(map_isolated(work, ["a", "kill", "b", "exit", "exit", "c"])) == [
        "a",
        "killed by SIGSEGV",
        "b",
        "ended with exit status 3",
        "ended with exit status 3",
        "c",
    ]


def test_an_item_that_fails_once_is_tried_again(tmp_path):
    def once(item):
        marker = tmp_path / item
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item, None

    assert names(map_isolated(once, ["a", "b"])) == ["a", "b"]


def test_an_item_that_hangs_is_given_up():
    assert names(map_isolated(work, ["a", "hang", "b"], timeout=0.3)) == ["a", "timed out twice", "b"]


def test_an_exception_is_the_callers():
    with pytest.raises(KeyError, match="what the function says"):
        list(map_isolated(work, ["a", "raise"]))


def test_memory_is_bounded_in_the_child_alone():
    def allocate(megabytes):
        try:
            return len(np.ones(megabytes << 20, np.uint8))
        except MemoryError:
            return "no memory"

    assert list(map_isolated(allocate, [10, 400, 10], memory=100 << 20)) == [10 << 20, "no memory", 10 << 20]
    assert allocate(400) == 400 << 20


def test_no_process_is_left_where_the_caller_stops_early():
    def pid(_):
        return os.getpid()

    results = map_isolated(pid, range(100_000))
    child = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
