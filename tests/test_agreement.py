"""Workers that call a collective operation with different arrays get an error that names the array."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cxrflow.base.errors import JobError
from cxrflow.distributed.agreement import describe_arrays, digest, explain_difference
from cxrflow.distributed.worker import MonitoredWorker


def described(*arrays, names=None, **how):
    return describe_arrays("broadcast", [np.asarray(array) for array in arrays], names, **how)


def test_the_first_difference_is_named():
    one = described(np.int64(3), np.zeros((2, 3)), names=["optimizer/0000", "model/0000"])
    two = described(np.int32(3), np.zeros((2, 3)), names=["optimizer/0000", "model/0000"])
    assert explain_difference([one, one, two]) == (
        "expected the same broadcast on all workers, got optimizer/0000: int64 () on worker 0 and "
        "optimizer/0000: int32 () on worker 2"
    )
    assert explain_difference([one, one]) is None and (digest(one) != digest(two)).any()


def test_arrays_may_differ_in_values_and_on_request_in_length():
    assert described([1, 2]) == described([3, 4]) and described([1, 2]) != described([1, 2, 3])
    assert described([1, 2], any_length=True) == described([1], any_length=True)
    assert described(np.zeros((1, 2)), any_length=True) != described(np.zeros((1, 3)), any_length=True)


def test_a_missing_array_and_another_operation_are_named():
    assert "got 2 arrays on worker 0 and 1 on worker 1" in explain_difference([described(1, 2), described(1)])
    gather = describe_arrays("all_gather", [np.array(1)], None)
    assert "got broadcast on worker 0 and all_gather on worker 1" in explain_difference([described(1), gather])


class Threads:
    """Two workers as two threads, whose only collective is ``_gather_equal``."""

    def __init__(self):
        self.barrier, self.found = threading.Barrier(2, timeout=10), [None, None]

    def worker(self, rank):
        shared = self

        class Worker(MonitoredWorker):
            size = 2

            def _gather_equal(self, array):
                shared.found[rank] = array
                shared.barrier.wait()
                gathered = np.stack(shared.found)
                shared.barrier.wait()
                return gathered

        return Worker()


@pytest.mark.parametrize(("dtype", "differs"), [(np.int32, False), (np.int64, True)])
def test_all_workers_get_the_error(dtype, differs):
    threads, errors = Threads(), []

    def call(rank):
        array = np.zeros(3, dtype if rank else np.int32)
        try:
            threads.worker(rank).require_agreement("broadcast", [array], ["steps"])
        except JobError as error:
            errors.append(str(error))

    running = [threading.Thread(target=call, args=(rank,)) for rank in range(2)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(errors) == 2 * differs and all(
        "steps: int32 (3,) on worker 0 and steps: int64" in text for text in errors
    )
