"""Work in a child process: what comes back, and what an item that kills its process leaves of the others."""

import os
import signal
import time

import numpy as np
import pytest

from cxrflow.isolated import Crash, map_isolated


def work(item):
    if item == "kill":
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


def test_results_come_in_order_and_whole():
    results = list(map_isolated(work, range(300)))
    assert names(results) == list(range(300))
    assert all(pixels.sum() == 7 * 40_000 for _, pixels in results)


def test_an_item_that_kills_its_process_takes_nothing_else():
    assert names(map_isolated(work, ["a", "kill", "b", "exit", "exit", "c"])) == [
        "a", "killed by SIGSEGV", "b", "ended with exit status 3", "ended with exit status 3", "c"]


def test_an_item_that_fails_once_is_tried_again(tmp_path):
    def once(item):
        mark = tmp_path / item
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item, None

    assert names(map_isolated(once, ["a", "b"])) == ["a", "b"]


def test_an_item_that_hangs_is_given_up():
    assert names(map_isolated(work, ["a", "hang", "b"], patience=0.3)) == ["a", "it gave no answer in time, twice", "b"]


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
