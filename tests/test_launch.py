"""A launcher's contract: a function and plain data go out to real workers, rank 0's result comes back."""

import sys
from pathlib import Path

import pytest

from cxrflow.config import TrainConfig
from cxrflow.errors import JobError, UserError
from cxrflow.launch import find_launcher
from cxrflow.launch.supervise import supervise


def run(spark, config, function):
    return supervise(spark, config, function, lambda config: config)


@pytest.fixture
def horovod_runner(monkeypatch):
    """HorovodRunner's contract, kept with Horovod's own ways to start processes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "databricks"))
    yield
    sys.modules.pop("sparkdl", None)


@pytest.mark.parametrize("launcher", ["horovod", "horovodrunner", "torch"])
def test_workers_know_each_other_and_exchange(spark, launcher, horovod_runner, caplog):
    caplog.set_level("INFO")

    def exchange(config, worker):  # nested, so that it travels by value: workers cannot import this file
        import numpy as np
        from keras import ops

        gradients = [ops.convert_to_tensor(np.full(shape, worker.rank + scale, "float32"))
                     for shape, scale in (((2, 2), 1.0), ((3,), 5.0))]
        averaged = [ops.convert_to_numpy(tensor).tolist() for tensor in worker.average_gradients(gradients)]
        worker.say(f"hello from rank {worker.rank}")
        return {
            "rank": worker.rank, "size": worker.size, "seed": config.seed, "gradients": averaged,
            "average": [array.tolist() for array in worker.average([np.float64([worker.rank, 10 * worker.rank])])],
            "broadcast": [array.tolist() for array in worker.broadcast([np.float32([worker.rank + 7])])],
            # arrays of unequal length, one of them empty
            "gather": worker.gather(np.arange(3 * worker.rank, dtype=np.int64)).tolist(),
        }

    config = TrainConfig(table="t", run="r", launcher=launcher, workers=2, seed=42)
    assert run(spark, config, exchange) == {
        "restarts": 0, "lost": [], "rank": 0, "size": 2, "seed": 42, "gradients": [[[1.5, 1.5], [1.5, 1.5]], [5.5, 5.5, 5.5]],
        "average": [[0.5, 5.0]], "broadcast": [[7.0]], "gather": [0, 1, 2]}
    assert "hello from rank 0" in caplog.text


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
