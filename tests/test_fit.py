"""Training: both backends and any number of workers agree, and a run that stops anywhere resumes as if it had not."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.manifest import RunDirectory, read_manifest
from cxrflow.launch.supervisor import supervise
from cxrflow.pipeline.train_job import train
from cxrflow.training.checkpoint import read_checkpoint, will_resume

pytestmark = pytest.mark.cluster

# Trains one configuration after the other in this process. "stop" is the number of the checkpoint after which a
# training ends as if a signal had come; 0 for none. "lose" is the number of a batch that the feed does not feed; the
# error of such a training goes to the file "lost".
LOCAL = """
import json, pathlib, sys
import cxrflow.training.run_writer as run_writer
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError
from cxrflow.pipeline.train_job import train
from cxrflow.training.feed import Feed

write, batches = run_writer.write_checkpoint, Feed.epoch
for job in json.loads(sys.argv[1]):
    stop, lose, written = job.pop("stop"), job.pop("lose", None), []

    def without_one(feed, *arguments, **options):
        for step, batch in enumerate(batches(feed, *arguments, **options)):
            if step != lose:
                yield batch

    def write_and_stop(*arguments):
        write(*arguments)
        written.append(arguments)
        if len(written) == stop:
            sys.exit(9)

    run_writer.write_checkpoint = write_and_stop
    Feed.epoch = batches if lose is None else without_one
    try:
        train(None, TrainConfig(**job))
        assert not stop and lose is None
    except SystemExit:
        assert len(written) == stop
    except JobError as error:
        if lose is None:
            raise
        pathlib.Path(job["run"], "lost").write_text(str(error))
"""


def run_local(backend, *jobs):
    """Train each of the jobs (fields of TrainConfig, and ``stop``) in one new process."""
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, json.dumps(jobs)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=os.path.dirname(__file__),  # so that it can import ``tiny``
    )
    assert done.returncode == 0, done.stderr


def tiny(x):
    """A network with batch normalisation and dropout, whose states a checkpoint must hold too."""
    from keras import layers

    x = layers.Conv2D(8, 3, strides=4, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))


MODELS = {"tiny": "test_fit:tiny", "plain": "plain"}


def local_job(table, run, model, stop=0, if_exists="fail", **fields):
    base = {"epochs": 3, "batch_size": 4, "checkpoint_seconds": 0, "seed": 3}
    return {
        **base,
        "table": str(table),
        "run": str(run),
        "model": model,
        "stop": stop,
        "if_exists": if_exists,
        **fields,
    }


def history(run):
    return json.loads((run / "history.json").read_text())


def figures(run):
    names = ("epoch", "loss", "val_loss", "val_auc", "learning_rate")
    return [[epoch[name] for name in names] for epoch in history(run)["epochs"]]


def losses(run):
    return [epoch[name] for epoch in history(run)["epochs"] for name in ("loss", "val_loss")]


def every_sample_was_fed(run, table):
    """Whether each epoch's record has the number and the checksum of the whole train split."""
    train_split = read_manifest(str(table)).of_split("train")
    rows = sum(shard.rows for shard in train_split)
    checksum = int(np.bitwise_xor.reduce([np.uint64(int(shard.checksum, 16)) for shard in train_split]))
    expected = {"samples": rows, "expected": rows, "checksum": format(checksum, "016x")}
    return all(epoch["fed"] == expected for epoch in history(run)["epochs"])


PLAIN = {"epochs": 3, "model": "plain", "lr_scaling": "none", "weight_decay": 0.0, "checkpoint_seconds": 0}
"""The network has neither dropout nor batch normalisation. So with the same global batch, one and two workers differ
only in the order of sums."""


HALF = {"horovod": "mixed_bfloat16", "torch": "mixed_float16"}
"""The other precision that each launcher's workers train with."""
STOPPED = {"tensorflow-tiny": 3, "tensorflow-plain": 11, "torch-tiny": 10}
"""Backend and network of the runs that stop, and the checkpoint after which they do: inside the first epoch, or the
second."""
FINISHED = "tensorflow-plain-whole"


@pytest.fixture(scope="module")
def local_runs(table, tmp_path_factory):
    """A folder of runs: ``NAME-whole`` was never stopped, ``NAME`` was stopped and not resumed yet.

    ``alone`` is PLAIN on one worker. The feed of ``loses-a-batch`` left one sample out.
    """
    folder = tmp_path_factory.mktemp("local")
    for backend in ("tensorflow", "torch"):
        jobs = []
        for name, stop in STOPPED.items():
            if name.startswith(backend):
                model = MODELS[name.split("-")[1]]
                # Checkpoints inside an epoch must not change what training computes.
                jobs += [
                    local_job(table, folder / f"{name}-whole", model, checkpoint_seconds=600),
                    local_job(table, folder / name, model, stop),
                ]
        if backend == "tensorflow":
            jobs.append(local_job(table, folder / "alone", **{**PLAIN, "batch_size": 8, "seed": 0}))
            jobs.append(
                local_job(table, folder / "loses-a-batch", "plain", batch_size=1, checkpoint_seconds=600, lose=2)
            )
        run_local(backend, *jobs)
    return folder


@pytest.fixture(scope="module")
def resumed_runs(table, local_runs, tmp_path_factory):
    """The stopped runs of ``local_runs``, resumed by new processes. ``over`` began with TensorFlow and ends with torch.

    ``incomplete`` is a finished run that had lost its history, as if it died between its last checkpoint and the files
    that follow.
    """
    folder = tmp_path_factory.mktemp("resumed")
    for name, source in (*zip(STOPPED, STOPPED, strict=True), ("over", "tensorflow-tiny")):
        shutil.copytree(local_runs / source, folder / name)
    shutil.copytree(local_runs / FINISHED, folder / "incomplete")
    (folder / "incomplete" / "history.json").unlink()
    for backend in ("tensorflow", "torch"):
        jobs = [
            local_job(table, folder / name, MODELS[name.split("-")[1]], if_exists="resume")
            for name in STOPPED
            if name.startswith(backend)
        ]
        if backend == "torch":
            jobs.append(local_job(table, folder / "over", MODELS["tiny"], if_exists="resume"))
        else:
            jobs.append(local_job(table, folder / "incomplete", "plain", if_exists="resume"))
        run_local(backend, *jobs)
    return folder


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_and_resumed_run_follows_the_trajectory_of_a_whole_one(table, local_runs, resumed_runs, name):
    state = read_checkpoint(RunDirectory(str(local_runs / name))).state
    assert state["samples"] > 0
    assert len(list((local_runs / name / "checkpoints").iterdir())) in (2, 3)  # with that of the best epoch
    whole, resumed = local_runs / f"{name}-whole", resumed_runs / name
    np.testing.assert_allclose(figures(resumed), figures(whole), rtol=2e-4)
    assert every_sample_was_fed(resumed, table) and every_sample_was_fed(whole, table)
    events = [json.loads(line) for line in (resumed / "events.jsonl").read_text().splitlines()]
    assert [event["status"] for event in events if event["event"] == "end"] == ["killed", "finished"]
    starts = [event for event in events if event["event"] == "start"]
    assert [event["images"] for event in starts] == [
        0,
        state["epoch"] * starts[0]["images_per_epoch"] + state["samples"],
    ]


def test_a_finished_run_gives_its_summary_and_another_backend_resumes_a_run(table, resumed_runs, tmp_path):
    run = resumed_runs / "over"  # by TensorFlow, then torch
    before = history(run)
    assert len(before["epochs"]) == 3 and before["finished"]
    fields = local_job(table, run, MODELS["tiny"], if_exists="resume")
    fields.pop("stop")
    result = train(None, TrainConfig(**fields))
    assert history(run) == before
    assert result["epochs"] == 3 and result["backend"] == "torch"


def test_a_finished_run_does_nothing(table, local_runs):
    run = local_runs / FINISHED
    # The configuration without the run's checkpoint_seconds, which may change.
    config = TrainConfig(table=str(table), run=str(run), model="plain", epochs=3, batch_size=4, seed=3)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    result, written = train(None, config), history(run)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert result["epochs"] == 3 and result["workers"] == 1 and result["backend"] == "tensorflow"
    assert result["best_epoch"] == written["best"]["epoch"] and (run / "model.keras").exists()
    assert not will_resume(RunDirectory(config.run), dataclasses.replace(config, if_exists="overwrite"))


def test_a_finished_run_that_lost_a_file_writes_it_again(local_runs, resumed_runs):
    again, written = history(resumed_runs / "incomplete"), history(local_runs / FINISHED)
    assert again["finished"] and again["epochs"] == written["epochs"]
    assert again["saved"] == pytest.approx(written["saved"], rel=1e-5)


@pytest.fixture(scope="module")
def two_workers(spark, table, tmp_path_factory):
    """A function from a launcher to the run directories of PLAIN by precision, trained one after the other by the same
    two workers.

    Training stops inside the third epoch.
    """
    steps = -(-sum(shard.rows for shard in read_manifest(str(table)).of_split("train")) // 8)
    stop = 2 * (steps + 1) + 2  # workers look after each step and after each epoch

    def function(config, worker, runs):
        import dataclasses

        import keras

        from cxrflow.training.fit import fit

        stopped = []
        for precision, run in runs.items():
            keras.backend.clear_session()  # layers are numbered from 1 on every worker
            looks = iter(range(1, stop + 1))
            worker.stop_requested = lambda looks=looks: next(looks, stop) == stop
            result = fit(dataclasses.replace(config, run=run, precision=precision), worker)
            stopped.append(result.get("stopped", False))
        return {**result, "stopped": False, "all_stopped": all(stopped)}  # nobody sent a signal

    @functools.cache
    def train_once(launcher):
        folder = tmp_path_factory.mktemp(launcher)
        runs = {precision: folder / precision for precision in ("float32", HALF[launcher])}
        config = TrainConfig(table=str(table), run=str(folder), launcher=launcher, workers=2, batch_size=4, **PLAIN)
        result = supervise(
            spark,
            config,
            functools.partial(function, runs={precision: str(run) for precision, run in runs.items()}),
            lambda config, slots: config,
            lambda event: None,
            lambda: None,
        )
        assert result["all_stopped"]
        return runs

    return train_once


@pytest.fixture(scope="module")
def resumed_alone(table, two_workers, tmp_path_factory):
    """By launcher, its stopped run of two workers, resumed by one worker with the other backend."""
    runs = {}
    for launcher, backend in (("horovod", "torch"), ("torch", "tensorflow")):
        runs[launcher] = tmp_path_factory.mktemp("alone") / "run"
        shutil.copytree(two_workers(launcher)["float32"], runs[launcher])
        fields = {**PLAIN, "batch_size": 8, "seed": 0}
        run_local(backend, local_job(table, runs[launcher], if_exists="resume", **fields))
    return runs


@pytest.mark.parametrize("launcher", ["horovod", "torch"])
def test_two_workers_train_like_one(two_workers, local_runs, launcher):
    run = two_workers(launcher)["float32"]
    state = read_checkpoint(RunDirectory(str(run))).state
    assert (state["epoch"], state["samples"]) == (2, 16)
    np.testing.assert_allclose(figures(run), figures(local_runs / "alone")[:2], rtol=1e-4)


def test_both_backends_learn_the_same(two_workers):
    """Weights, batches and augmentation are the same. The order of sums differs."""
    torch, horovod = (losses(two_workers(launcher)["float32"]) for launcher in ("torch", "horovod"))
    assert torch == pytest.approx(horovod, rel=1e-4)


@pytest.mark.parametrize("launcher", ["horovod", "torch"])
def test_one_worker_of_the_other_backend_resumes_two(table, resumed_alone, local_runs, launcher):
    run = resumed_alone[launcher]
    np.testing.assert_allclose(figures(run), figures(local_runs / "alone"), rtol=2e-4)
    assert every_sample_was_fed(run, table)


@pytest.mark.parametrize("launcher", HALF)
def test_16_bits_learn_about_the_same_and_are_not_saved(two_workers, launcher):
    """mixed_float16 skips some of the first steps, until its loss scale fits."""
    full, half = two_workers(launcher).values()
    assert losses(half) != losses(full) and losses(half) == pytest.approx(losses(full), rel=0.05)
    for run in (full, half):
        config = zipfile.ZipFile(run / "model.keras").read("config.json").decode()
        assert "mixed" not in config and "float16" not in config
        arrays = read_checkpoint(RunDirectory(str(run))).arrays
        assert {str(array.dtype) for name, array in arrays.items() if name.startswith("model/")} == {"float32"}


def test_a_feed_that_loses_a_sample_stops_training_and_names_the_shard(table, local_runs):
    error = (local_runs / "loses-a-batch" / "lost").read_text()
    assert "not every sample was fed exactly once" in error
    assert any(
        f"{shard.path} ({shard.rows - 1} samples fed, {shard.rows} expected)" in error
        for shard in read_manifest(str(table)).of_split("train")
    )
