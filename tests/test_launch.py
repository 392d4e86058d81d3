"""A launcher's contract: a function and plain data go out to real workers, rank 0's result comes back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.launch import find_launcher
from cxrflow.launch.local import launch
from cxrflow.launch.supervisor import supervise


def run(spark, config, function, record=lambda event: None):
    return supervise(spark, config, function, lambda config, slots: config, record, lambda: None)


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

        gradients = [
            ops.convert_to_tensor(np.full(shape, worker.rank + scale, "float32"))
            for shape, scale in (((2, 2), 1.0), ((3,), 5.0))
        ]
        averaged = [ops.convert_to_numpy(tensor).tolist() for tensor in worker.all_reduce_mean_gradients(gradients)]
        if worker.rank == 0:
            worker.report_event({"event": "start", "images": 7})
            deadline = time.monotonic() + 30
            while not os.path.exists(config.run) and time.monotonic() < deadline:
                time.sleep(0.02)
        return {
            "heard": os.path.exists(config.run),
            "rank": worker.rank,
            "size": worker.size,
            "seed": config.seed,
            "gradients": averaged,
            "average": [
                array.tolist() for array in worker.all_reduce_mean([np.float64([worker.rank, 10 * worker.rank])])
            ],
            "broadcast": [array.tolist() for array in worker.broadcast([np.float32([worker.rank + 7])])],
            # arrays of unequal length, one of them empty
            "gather": worker.all_gather(np.arange(3 * worker.rank, dtype=np.int64)).tolist(),
        }

    told = []

    def record(event):
        told.append(event)
        (tmp_path / "heard").touch()

    config = TrainConfig(table="t", run=str(tmp_path / "heard"), launcher=launcher, workers=2, seed=42)
    assert run(spark, config, exchange, record) == {
        "restarts": 0,
        "lost": [],
        "heard": True,
        "rank": 0,
        "size": 2,
        "seed": 42,
        "gradients": [[[1.5, 1.5], [1.5, 1.5]], [5.5, 5.5, 5.5]],
        "average": [[0.5, 5.0]],
        "broadcast": [[7.0]],
        "gather": [0, 1, 2],
    }
    assert told == [{"event": "start", "images": 7}]


LOADS = """
import json, os, sys, threading
from cxrflow.base.config import TrainConfig
from cxrflow.launch.supervisor import supervise
from cxrflow.spark.session import open_session
from cxrflow.watch.recorder import Recorder

os.environ["PYSPARK_SUBMIT_ARGS"] = "--master local[2] --driver-memory 1g pyspark-shell"
spark, loaded = open_session("loads"), {}

def note(event, arguments):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        loaded.setdefault(threading.current_thread().name, []).append(arguments[0])

sys.addaudithook(note)
for launcher in ("horovod", "torch"):
    config = TrainConfig(table="/t", run=f"{sys.argv[1]}/{launcher}", launcher=launcher, workers=2)
    with Recorder(config, resumes=False) as recorder:
        supervise(spark, config, lambda config, worker: {}, lambda config, slots: config, recorder.record, lambda: None)
print(json.dumps(loaded))
"""


def test_no_thread_of_the_driver_loads_packages_beside_another_one(tmp_path):
    """Python's import now and then stopped for ever where TensorBoard's thread and the launcher's loaded theirs at a time."""
    done = subprocess.run([sys.executable, "-c", LOADS, str(tmp_path)], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {}
    assert (tmp_path / "torch" / "events.jsonl").exists() and "cannot be written" not in done.stderr


def test_what_the_local_worker_tells_is_recorded_at_once():
    told = []

    def tell(config, worker):
        worker.report_event({"event": "start"})
        return {"told": list(told)}

    assert launch(tell, TrainConfig(table="t", run="r"), told.append, lambda: None) == {"told": [{"event": "start"}]}


def test_the_local_worker_writes_no_checkpoint_where_its_folder_was_taken_over():
    def refuse():
        raise JobError("another run took this folder over")

    def save(config, worker):
        worker.report_progress("train", epoch=1, step=1)
        worker.report_progress("checkpoint", epoch=1)
        pytest.fail("it would have written")

    with pytest.raises(JobError, match="another run"):
        launch(save, TrainConfig(table="t", run="r"), lambda event: None, refuse)


@pytest.mark.parametrize("launcher", ["horovod", "torch"])
def test_what_is_exchanged_in_a_step(spark, launcher):
    """Gradients in each dtype, steps that overflow on one worker alone, and batch normalisation over all workers."""

    def exchange(config, worker):
        import keras
        import numpy as np
        from keras import ops

        from cxrflow.training.batch_norm import combine_statistics, synchronise
        from cxrflow.training.optimizer import build_optimizer

        if keras.backend.backend() == "torch":
            from cxrflow.launch.torch_distributor import TorchWorker

            def compiled(function):
                return function

            def sending(dtype):
                return TorchWorker(worker.agent, dtype)

            def gradient(function, start):
                start.requires_grad_(True)
                function(start).backward()
                return start.grad
        else:
            import horovod.tensorflow as hvd
            import tensorflow as tf

            from cxrflow.launch.horovod import HorovodWorker

            compiled = tf.function

            def sending(dtype):
                return HorovodWorker(hvd, tf, worker.agent, dtype)

            @tf.function
            def gradient(function, start):
                with tf.GradientTape() as tape:
                    tape.watch(start)
                    loss = function(start)
                return tape.gradient(loss, start)

        def array(tensor):
            return ops.convert_to_numpy(tensor)

        found = {}
        # 21 numbers, which two workers cannot share out evenly; a sum of the first would be too much for float16.
        numbers = [np.random.default_rng(rank).normal(0, 1e-2, 21).astype("float32") for rank in range(2)]
        for drawn in numbers:
            drawn[0] = 60000
        expected = (numbers[0] + numbers[1]) / 2
        for dtype in ("float32", "float16", "bfloat16"):
            sender = sending(dtype)
            averaged = compiled(sender.all_reduce_mean_gradients)(
                [
                    ops.convert_to_tensor(part)
                    for part in (numbers[worker.rank][:6].reshape(2, 3), numbers[worker.rank][6:])
                ]
            )
            assert [tuple(part.shape) for part in averaged] == [(2, 3), (15,)]
            flat = np.concatenate([array(part).ravel() for part in averaged])
            found[dtype] = float(np.max(np.abs(flat - expected) / np.maximum(np.abs(numbers[0]), np.abs(numbers[1]))))
            found["timed"] = 0 < sender.all_reduce_seconds() < 30 and found.get("timed", True)

        # The gradient of one worker alone is infinite: both leave the step out.
        variable = keras.Variable(np.ones(2, "float32"))
        import dataclasses

        optimizer = build_optimizer(dataclasses.replace(config, precision="mixed_float16"), worker, 10)
        optimizer.build([variable])
        step = compiled(lambda gradient: optimizer.apply([gradient], [variable]))
        step(ops.convert_to_tensor(np.float32([np.inf if worker.rank else 1.0, 1.0])))
        found["skipped"] = [
            array(variable).tolist(),
            float(array(optimizer.dynamic_scale)),
            int(array(optimizer.iterations)),
        ]
        step(ops.convert_to_tensor(np.float32([1.0, 1.0])))
        found["stepped"] = [bool((array(variable) != 1).all()), int(array(optimizer.iterations))]

        found["through"] = array(
            gradient(lambda start: ops.sum(worker.all_reduce_mean_tensor(start)) * (worker.rank + 1.0), ops.ones(3))
        ).tolist()

        images = np.random.default_rng(5).normal(3, 2, (8, 2, 2, 4)).astype("float32") * [[[[1, 2, 3, 4]]]]
        images[4:] += 1  # the second worker's
        mine = images[4 * worker.rank : 4 * worker.rank + 4]
        inputs = keras.Input((2, 2, 4))
        inner = keras.Sequential([keras.Input((2, 2, 4)), keras.layers.BatchNormalization(momentum=0.0)])
        model = keras.Model(inputs, inner(inputs))
        layer = inner.layers[0]
        model(mine, training=True)
        combine_statistics(model, worker)
        combine_statistics(model, worker)  # which changes nothing any more
        mean, variance = images.mean((0, 1, 2)), images.var((0, 1, 2))
        found["combined"] = [
            float(np.max(np.abs(array(layer.moving_mean) - mean))),
            float(np.max(np.abs(array(layer.moving_variance) / variance - 1))),
        ]
        synchronise(model, worker)
        normalised = array(
            compiled(lambda pixels: model(pixels, training=True))(ops.convert_to_tensor(mine, "float32"))
        )
        whole = (images - mean) / np.sqrt(variance + layer.epsilon)
        found["global"] = float(np.max(np.abs(normalised - whole[4 * worker.rank : 4 * worker.rank + 4])))
        # Of either worker, not of rank 0 alone.
        worst = worker.all_gather(
            np.float64([[found[name] for name in ("float32", "float16", "bfloat16", "global")]])
        ).max(axis=0)
        return {**found, **dict(zip(("float32", "float16", "bfloat16", "global"), worst.tolist(), strict=True))}

    found = run(spark, TrainConfig(table="t", run="r", launcher=launcher, workers=2), exchange)
    assert found["timed"]
    assert found["float32"] < 1e-6
    # Numbers are rounded when they are sent, and their means again: to 11 bits, and to 8.
    assert 1e-6 < found["float16"] < 2 * 2**-11 and 2**-11 < found["bfloat16"] < 2 * 2**-8
    assert found["skipped"] == [[1.0, 1.0], 2.0**14, 0] and found["stepped"] == [True, 1]
    assert found["through"] == [1.5, 1.5, 1.5]
    assert found["combined"] == pytest.approx([0, 0], abs=1e-5) and found["global"] < 1e-4


@pytest.mark.parametrize(
    ("launcher", "raised", "expected"),
    [("horovod", OSError, JobError), ("torch", OSError, JobError), ("torch", UserError, UserError)],
)
def test_a_worker_that_fails_ends_the_launch_with_its_words(spark, launcher, raised, expected):
    def fail(config, worker):
        if worker.rank == 1:
            raise raised("the disk of rank 1 is gone")
        worker.all_reduce_mean([__import__("numpy").zeros(1)])  # waits for rank 1

    config = TrainConfig(table="t", run="r", launcher=launcher, workers=2)
    with pytest.raises(expected, match="the disk of rank 1 is gone.* \\(worker 1"):
        run(spark, config, fail)


def test_without_horovod_runner_the_runtimes_that_have_it_are_named():
    with pytest.raises(UserError, match=r"sparkdl is not installed; it comes with Databricks Runtime .* 15.4 LTS ML"):
        find_launcher("horovodrunner")
