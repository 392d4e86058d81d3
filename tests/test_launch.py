"""A launcher's contract: a function and plain data go to real workers, and rank 0's result comes back."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.launch import find_launcher
from cxrflow.launch.local import launch
from cxrflow.launch.supervisor import supervise

LAUNCHERS = ["horovod", "horovodrunner", "torch"]


def run(spark, config, function, record=lambda event: None):
    return supervise(spark, config, function, lambda config, slots: config, record, lambda: None)


def worker_function(in_training: bool):
    """What the workers run. Nested functions travel by value, because workers cannot import this file."""

    def use_collectives(config, worker):
        """Call each collective operation once, and report an event while the training runs."""
        import os
        import time

        import numpy as np
        from keras import ops

        # 21 numbers in two tensors, an odd number for two workers. The sum of the first does not fit in float16.
        numbers = np.random.default_rng(worker.rank).normal(0, 1e-2, 21).astype("float32")
        numbers[0] = 60000
        gradients = [ops.convert_to_tensor(part) for part in (numbers[:6].reshape(2, 3), numbers[6:])]
        if worker.rank == 0:
            worker.report_event({"event": "start", "images": 7})
            deadline = time.monotonic() + 30
            while not os.path.exists(config.run) and time.monotonic() < deadline:
                time.sleep(0.02)
        averaged = [ops.convert_to_numpy(tensor) for tensor in worker.all_reduce_mean_gradients(gradients)]
        return {
            "event_arrived": os.path.exists(config.run),
            "rank": worker.rank,
            "size": worker.size,
            "seed": config.seed,
            "gradient_shapes": [list(part.shape) for part in averaged],
            # of all workers
            "gradients": worker.all_gather(np.concatenate([part.ravel() for part in averaged])[None]).tolist(),
            "all_reduce_seconds": worker.all_reduce_seconds(),
            "all_reduce_mean": [
                array.tolist() for array in worker.all_reduce_mean([np.float64([worker.rank, 10 * worker.rank])])
            ],
            "broadcast": [array.tolist() for array in worker.broadcast([np.float32([worker.rank + 7])])],
            # arrays of unequal length, one of them empty
            "all_gather": worker.all_gather(np.arange(3 * worker.rank, dtype=np.int64)).tolist(),
        }

    def use_in_training(config, worker):
        """What the train step builds on the collectives: gradients in a compiled step, skipped steps, batch
        normalisation."""
        import dataclasses

        import keras
        import numpy as np
        from keras import ops

        from cxrflow.training.batch_norm import combine_statistics, synchronise
        from cxrflow.training.optimizer import build_optimizer

        if keras.backend.backend() == "torch":

            def compiled(function):
                return function

            def gradient(function, start):
                start.requires_grad_(True)
                function(start).backward()
                return start.grad
        else:
            import tensorflow as tf

            compiled = tf.function

            @tf.function
            def gradient(function, start):
                with tf.GradientTape() as tape:
                    tape.watch(start)
                    loss = function(start)
                return tape.gradient(loss, start)

        def array(tensor):
            return ops.convert_to_numpy(tensor)

        found = {}
        seconds = worker.all_reduce_seconds()
        mean = compiled(worker.all_reduce_mean_gradients)([ops.convert_to_tensor(np.float32([worker.rank, 2.0]))])
        found["mean"] = array(mean[0]).tolist()
        found["all_reduce_seconds"] = worker.all_reduce_seconds() - seconds

        # The gradient of one worker alone is infinite: both skip the step.
        variable = keras.Variable(np.ones(2, "float32"))
        optimizer = build_optimizer(dataclasses.replace(config, precision="mixed_float16"), worker, 10)
        optimizer.build([variable])
        step = compiled(lambda gradient: optimizer.apply([gradient], [variable]))
        step(ops.convert_to_tensor(np.float32([np.inf if worker.rank else 1.0, 1.0])))
        scale, iterations = float(array(optimizer.dynamic_scale)), int(array(optimizer.iterations))
        found["skipped"] = [array(variable).tolist(), scale, iterations]
        step(ops.convert_to_tensor(np.float32([1.0, 1.0])))
        found["stepped"] = [bool((array(variable) != 1).all()), int(array(optimizer.iterations))]

        found["gradient_through_mean"] = array(
            gradient(lambda start: ops.sum(worker.all_reduce_mean_tensor(start)) * (worker.rank + 1.0), ops.ones(3))
        ).tolist()

        images = np.random.default_rng(5).normal(3, 2, (8, 2, 2, 4)).astype("float32") * [[[[1, 2, 3, 4]]]]
        images[4:] += 1  # the second worker's
        own = slice(4 * worker.rank, 4 * worker.rank + 4)
        inputs = keras.Input((2, 2, 4))
        inner = keras.Sequential([keras.Input((2, 2, 4)), keras.layers.BatchNormalization(momentum=0.0)])
        model = keras.Model(inputs, inner(inputs))
        layer = inner.layers[0]
        model(images[own], training=True)
        combine_statistics(model, worker)
        combine_statistics(model, worker)  # the second call changes nothing
        mean, variance = images.mean((0, 1, 2)), images.var((0, 1, 2))
        found["combined_mean_error"] = float(np.max(np.abs(array(layer.moving_mean) - mean)))
        found["combined_variance_error"] = float(np.max(np.abs(array(layer.moving_variance) / variance - 1)))
        synchronise(model, worker)
        forward = compiled(lambda pixels: model(pixels, training=True))
        normalised = array(forward(ops.convert_to_tensor(images[own], "float32")))
        expected = (images - mean) / np.sqrt(variance + layer.epsilon)
        error = np.max(np.abs(normalised - expected[own]))
        found["synchronised_error"] = float(worker.all_gather(np.float64([error])).max())
        return found

    def call(config, worker):
        basic = use_collectives(config, worker)
        return {"basic": basic, "training": use_in_training(config, worker) if in_training else None}

    return call


@pytest.fixture(scope="module")
def launched(spark, tmp_path_factory):
    """A function that launches two workers once per launcher: the result on rank 0, and the events that arrived."""

    def record(event, events, arrived):
        events.append(event)
        arrived.touch()

    @functools.cache
    def launched(launcher):
        function = worker_function(in_training=launcher != "horovodrunner")
        events, arrived = [], tmp_path_factory.mktemp("launched") / "arrived"
        config = TrainConfig(table="t", run=str(arrived), launcher=launcher, workers=2, seed=42)
        with pytest.MonkeyPatch.context() as patch:
            # HorovodRunner's contract, implemented with Horovod's own launcher.
            patch.syspath_prepend(str(Path(__file__).parent / "databricks"))
            try:
                result = run(spark, config, function, lambda event: record(event, events, arrived))
            finally:
                sys.modules.pop("sparkdl", None)
        return result, events

    return launched


@pytest.mark.cluster
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_workers_know_their_rank_and_the_result_of_rank_0_returns(launched, launcher):
    result, events = launched(launcher)
    assert (result["restarts"], result["lost"]) == (0, [])
    basic = result["basic"]
    assert (basic["rank"], basic["size"], basic["seed"]) == (0, 2, 42)
    assert events == [{"event": "start", "images": 7}]
    assert basic["event_arrived"]  # while the workers still ran


@pytest.mark.cluster
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_collective_operations(launched, launcher):
    basic = launched(launcher)[0]["basic"]
    assert basic["all_reduce_mean"] == [[0.5, 5.0]]
    assert basic["broadcast"] == [[7.0]]
    assert basic["all_gather"] == [0, 1, 2]
    assert basic["gradient_shapes"] == [[2, 3], [15]]
    numbers = [np.random.default_rng(rank).normal(0, 1e-2, 21).astype("float32") for rank in range(2)]
    for drawn in numbers:
        drawn[0] = 60000
    expected, largest = (numbers[0] + numbers[1]) / 2, np.maximum(*map(np.abs, numbers))
    for of_one_worker in np.array(basic["gradients"]):
        assert np.max(np.abs(of_one_worker - expected) / largest) < 1e-6
    assert 0 < basic["all_reduce_seconds"] < 30


@pytest.mark.cluster
@pytest.mark.parametrize("launcher", ["horovod", "torch"])
def test_collective_operations_in_training(launched, launcher):
    found = launched(launcher)[0]["training"]
    assert found["mean"] == [0.5, 2.0] and 0 < found["all_reduce_seconds"] < 30
    assert found["skipped"] == [[1.0, 1.0], 2.0**14, 0] and found["stepped"] == [True, 1]
    assert found["gradient_through_mean"] == [1.5, 1.5, 1.5]
    assert max(found["combined_mean_error"], found["combined_variance_error"]) < 1e-5
    assert found["synchronised_error"] < 1e-4


IMPORTS = """
import json, os, sys, threading
from cxrflow.base.config import TrainConfig
from cxrflow.launch.supervisor import supervise
from cxrflow.spark.session import open_session
from cxrflow.watch.recorder import Recorder

os.environ["PYSPARK_SUBMIT_ARGS"] = "--master local[1] --driver-memory 1g pyspark-shell"
spark, imported = open_session("imports"), {}

def note(event, arguments):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        imported.setdefault(threading.current_thread().name, []).append(arguments[0])

sys.addaudithook(note)
for launcher in ("horovod", "torch"):
    config = TrainConfig(table="/t", run=f"{sys.argv[1]}/{launcher}", launcher=launcher, workers=1)
    with Recorder(config, resumes=False) as recorder:
        supervise(spark, config, lambda config, worker: {}, lambda config, slots: config, recorder.record, lambda: None)
print(json.dumps(imported))
"""


@pytest.mark.cluster
def test_only_the_drivers_main_thread_imports_packages(tmp_path):
    """Python's import system sometimes deadlocked when TensorBoard's and the launcher's threads imported at the same
    time."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path)], check=True, capture_output=True, text=True, timeout=200
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {}
    assert (tmp_path / "torch" / "events.jsonl").exists() and "cannot be written" not in done.stderr


@pytest.mark.spark
def test_the_local_workers_events_are_recorded_at_once():
    events = []

    def report(config, worker):
        worker.report_event({"event": "start"})
        return {"events": list(events)}

    assert launch(report, TrainConfig(table="t", run="r"), events.append, lambda: None) == {
        "events": [{"event": "start"}]
    }


@pytest.mark.spark
def test_the_local_worker_writes_no_checkpoint_to_a_run_directory_that_another_job_has_taken_over():
    def refuse():
        raise JobError("another run took this folder over")

    def save(config, worker):
        worker.report_progress("train", epoch=1, step=1)
        worker.report_progress("checkpoint", epoch=1)
        pytest.fail("it would have written")

    with pytest.raises(JobError, match="another run"):
        launch(save, TrainConfig(table="t", run="r"), lambda event: None, refuse)


@pytest.mark.cluster
def test_a_workers_error_ends_the_launch_with_its_message(spark):
    """test_agent.py and test_supervisor.py have the other kinds of errors, and this one with torch."""

    def fail(config, worker):
        if worker.rank == 1:
            raise OSError("the disk of rank 1 is gone")
        worker.all_reduce_mean([__import__("numpy").zeros(1)])  # waits for rank 1

    config = TrainConfig(table="t", run="r", launcher="horovod", workers=2)
    with pytest.raises(JobError, match="the disk of rank 1 is gone.* \\(worker 1"):
        run(spark, config, fail)


def test_without_horovod_runner_the_error_names_the_runtimes_that_have_it():
    with pytest.raises(UserError, match=r"the package sparkdl, found none; it comes with Databricks .* 15.4 LTS ML"):
        find_launcher("horovodrunner")
