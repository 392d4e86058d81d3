"""A launcher's contract: a function and plain data go out to real workers, rank 0's result comes back."""

import sys
from pathlib import Path

import pytest

from cxrflow.config import TrainConfig
from cxrflow.errors import JobError, UserError
from cxrflow.launch import find_launcher
from cxrflow.launch.local import launch
from cxrflow.launch.supervise import supervise


def run(spark, config, function, record=lambda event: None):
    return supervise(spark, config, function, lambda config: config, record)


@pytest.fixture
def horovod_runner(monkeypatch):
    """HorovodRunner's contract, kept with Horovod's own ways to start processes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "databricks"))
    yield
    sys.modules.pop("sparkdl", None)


@pytest.mark.parametrize("launcher", ["horovod", "horovodrunner", "torch"])
def test_workers_know_each_other_and_exchange(spark, launcher, horovod_runner, tmp_path):
    """And what rank 0 tells is on the driver while the workers still work."""
    def exchange(config, worker):  # nested, so that it travels by value: workers cannot import this file
        import os
        import time

        import numpy as np
        from keras import ops

        gradients = [ops.convert_to_tensor(np.full(shape, worker.rank + scale, "float32"))
                     for shape, scale in (((2, 2), 1.0), ((3,), 5.0))]
        averaged = [ops.convert_to_numpy(tensor).tolist() for tensor in worker.average_gradients(gradients)]
        if worker.rank == 0:
            worker.tell({"event": "start", "images": 7})
            deadline = time.monotonic() + 30
            while not os.path.exists(config.run) and time.monotonic() < deadline:
                time.sleep(0.02)
        return {
            "heard": os.path.exists(config.run), "rank": worker.rank, "size": worker.size, "seed": config.seed, "gradients": averaged,
            "average": [array.tolist() for array in worker.average([np.float64([worker.rank, 10 * worker.rank])])],
            "broadcast": [array.tolist() for array in worker.broadcast([np.float32([worker.rank + 7])])],
            # arrays of unequal length, one of them empty
            "gather": worker.gather(np.arange(3 * worker.rank, dtype=np.int64)).tolist(),
        }

    told = []

    def record(event):
        told.append(event)
        (tmp_path / "heard").touch()

    config = TrainConfig(table="t", run=str(tmp_path / "heard"), launcher=launcher, workers=2, seed=42)
    assert run(spark, config, exchange, record) == {
        "restarts": 0, "lost": [], "heard": True, "rank": 0, "size": 2, "seed": 42,
        "gradients": [[[1.5, 1.5], [1.5, 1.5]], [5.5, 5.5, 5.5]],
        "average": [[0.5, 5.0]], "broadcast": [[7.0]], "gather": [0, 1, 2]}
    assert told == [{"event": "start", "images": 7}]


def test_what_the_local_worker_tells_is_recorded_at_once():
    told = []

    def tell(config, worker):
        worker.tell({"event": "start"})
        return {"told": list(told)}

    assert launch(tell, TrainConfig(table="t", run="r"), told.append) == {"told": [{"event": "start"}]}


@pytest.mark.parametrize(("launcher", "raised", "expected"), [
    ("horovod", OSError, JobError), ("torch", OSError, JobError), ("torch", UserError, UserError)])
def test_a_worker_that_fails_ends_the_launch_with_its_words(spark, launcher, raised, expected):
    def fail(config, worker):
        if worker.rank == 1:
            raise raised("the disk of rank 1 is gone")
        worker.average([__import__("numpy").zeros(1)])  # waits for rank 1

    config = TrainConfig(table="t", run="r", launcher=launcher, workers=2)
    with pytest.raises(expected, match="the disk of rank 1 is gone.* \\(worker 1"):
        run(spark, config, fail)


def test_without_horovod_runner_the_runtimes_that_have_it_are_named():
    with pytest.raises(UserError, match=r"sparkdl is not installed; it comes with Databricks Runtime .* 15.4 LTS ML"):
        find_launcher("horovodrunner")
