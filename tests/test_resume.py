"""A run that stops anywhere goes on as if it had not, whatever the launcher and the number of workers."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cxrflow.base import lease
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.base.manifest import RUN_VERSION, RunDirectory, read_manifest, write_json
from cxrflow.launch.supervisor import supervise
from cxrflow.pipeline.train_job import _restart_config, _with_most_workers, check_train, train
from cxrflow.training.checkpoint import Checkpoint, goes_on, read_checkpoint, write_checkpoint

LOCAL = """
import sys
from cxrflow.base import lease
from cxrflow.base.config import TrainConfig
from cxrflow.pipeline.train_job import train
import cxrflow.training.fit as fit

table, model, if_exists, *rest = sys.argv[1:]
config = dict(table=table, model=model, epochs=3, batch_size=4, checkpoint_seconds=0, seed=3, if_exists=if_exists)
write, written = fit.write_checkpoint, []

def write_and_stop(*arguments):
    write(*arguments)
    written.append(arguments)
    if len(written) == stop:
        sys.exit(9)

fit.write_checkpoint = write_and_stop
for run, stop in zip(rest[::2], map(int, rest[1::2])):
    written.clear()
    train(None, TrainConfig(**config, run=run))
"""


def run_local(table, model, *runs, if_exists="fail", status=0, backend="tensorflow"):
    """Train into each of the ``runs``, one after the other in a process of their own: pairs of a run directory and the
    number of the checkpoint after which the process ends, with 9; 0 for none."""
    arguments = [table, model, if_exists, *(part for run in runs for part in run)]
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert done.returncode == status, done.stderr


def history(run):
    return json.loads((run / "history.json").read_text())


def figures(run):
    names = ("epoch", "loss", "val_loss", "val_auc", "learning_rate")
    return [[epoch[name] for name in names] for epoch in history(run)["epochs"]]


def fed_is_the_table(run, table):
    train_split = read_manifest(str(table)).of_split("train")
    rows = sum(shard.rows for shard in train_split)
    everything = format(
        int(np.bitwise_xor.reduce([np.uint64(int(shard.checksum, 16)) for shard in train_split])), "016x"
    )
    return all(
        epoch["fed"] == {"samples": rows, "expected": rows, "checksum": everything} for epoch in history(run)["epochs"]
    )


@pytest.mark.parametrize(
    ("backend", "model", "stop"),
    [
        ("tensorflow", "residual", 3),  # inside the first epoch
        ("tensorflow", "plain", 11),  # inside the second
        ("torch", "residual", 10),
    ],
)
def test_a_run_that_was_stopped_follows_the_trajectory_of_one_that_was_not(table, tmp_path, backend, model, stop):
    """With dropout and batch normalisation (residual): their states are in the checkpoint too."""
    run_local(table, model, (tmp_path / "whole", 0), (tmp_path / "stopped", stop), status=9, backend=backend)
    state = read_checkpoint(RunDirectory(str(tmp_path / "stopped"))).state
    assert state["samples"] > 0 and len(list((tmp_path / "stopped" / "checkpoints").iterdir())) in (
        2,
        3,
    )  # and the best
    run_local(table, model, (tmp_path / "stopped", 0), if_exists="resume", backend=backend)
    np.testing.assert_allclose(figures(tmp_path / "stopped"), figures(tmp_path / "whole"), rtol=2e-4)
    assert fed_is_the_table(tmp_path / "stopped", table) and fed_is_the_table(tmp_path / "whole", table)
    events = [json.loads(line) for line in (tmp_path / "stopped" / "events.jsonl").read_text().splitlines()]
    assert [event["status"] for event in events if event["event"] == "end"] == ["killed", "finished"]
    starts = [event for event in events if event["event"] == "start"]
    assert [event["images"] for event in starts] == [
        0,
        state["epoch"] * starts[0]["images_per_epoch"] + state["samples"],
    ]


def test_a_run_that_is_over_gives_its_summary_and_another_backend_reads_its_checkpoint(table, tmp_path):
    run = tmp_path / "run"
    run_local(table, "residual", (run, 9), status=9, backend="tensorflow")
    run_local(table, "residual", (run, 0), if_exists="resume", backend="torch")
    before = history(run)
    run_local(table, "residual", (run, 0), if_exists="resume", backend="tensorflow")
    assert history(run) == before and len(before["epochs"]) == 3


def launch(spark, config, stop=0):
    """Train on a launcher's workers, without the preflight before it; all of them stop after so many steps, 0 for none.
    Returns whether they did."""

    def function(config, worker):
        from cxrflow.training.fit import fit

        looks = iter(range(1, stop + 1))
        worker.stop_requested = lambda: next(looks, stop) == stop > 0
        result = fit(config, worker)
        return {**result, "stopped": False, "was_stopped": result.get("stopped", False)}  # nobody sent a signal

    return supervise(spark, config, function, lambda config, slots: config, lambda event: None, lambda: None)[
        "was_stopped"
    ]


PLAIN = dict(epochs=3, model="plain", lr_scaling="none", weight_decay=0.0, checkpoint_seconds=0)
"""The network has neither dropout nor batch normalisation, so with the same global batch only the averaging of gradients can
differ."""


@pytest.fixture(scope="module")
def alone(spark, table, tmp_path_factory):
    """A run of one worker."""
    run = tmp_path_factory.mktemp("alone") / "run"
    launch(spark, TrainConfig(table=str(table), run=str(run), launcher="horovod", workers=1, batch_size=8, **PLAIN))
    return run


@pytest.mark.parametrize(("first", "then"), [("horovod", "torch"), ("torch", "horovod")])
def test_two_workers_go_the_way_of_one_also_where_they_stop_and_one_of_the_other_launcher_goes_on(
    spark, table, alone, tmp_path, first, then
):
    """They stop inside the third epoch: the first two are theirs alone."""
    run = tmp_path / "run"
    steps = -(-sum(shard.rows for shard in read_manifest(str(table)).of_split("train")) // 8)
    assert launch(
        spark,
        TrainConfig(table=str(table), run=str(run), launcher=first, workers=2, batch_size=4, **PLAIN),
        stop=2 * (steps + 1) + 2,
    )  # they look after each step and after each epoch
    state = read_checkpoint(RunDirectory(str(run))).state
    assert (state["epoch"], state["samples"]) == (2, 16)
    np.testing.assert_allclose(figures(run), figures(alone)[:2], rtol=1e-4)
    train(spark, TrainConfig(table=str(table), run=str(run), launcher=then, workers=1, batch_size=8, **PLAIN))
    np.testing.assert_allclose(figures(run), figures(alone), rtol=2e-4)
    assert fed_is_the_table(run, table)


@pytest.fixture(scope="module")
def stopped(table, tmp_path_factory):
    run = tmp_path_factory.mktemp("stopped") / "run"
    run_local(table, "plain", (run, 2), status=9)
    return TrainConfig(table=str(table), run=str(run), model="plain", epochs=3, batch_size=4, seed=3)


def changed(config, **changes):
    return TrainConfig(**{**config.__dict__, **changes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "--seed: expected 3, with which the run began, got 4"),
        ({"epochs": 5}, "--epochs: expected 3, with which the run began, got 5"),
        ({"model": "residual"}, "--model: expected plain"),
        ({"feed_memory": "1k"}, r"--feed-memory: expected at least \d+m"),
        ({"if_exists": "fail"}, "holds another run; name another folder, resume it with --if-exists resume"),
    ],
)
def test_a_run_that_would_not_go_on_as_what_it_was_is_refused(stopped, change, words):
    check_train(changed(stopped, batch_size=5, workers=1, checkpoint_seconds=7))
    with pytest.raises(UserError, match=words):
        check_train(changed(stopped, **change))


def test_a_finished_run_does_nothing_unless_it_lost_a_file_and_overwrite_begins_anew(table, tmp_path):
    run = tmp_path / "run"
    run_local(table, "plain", (run, 0))
    config = TrainConfig(table=str(table), run=str(run), model="plain", epochs=3, batch_size=4, seed=3)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    result, written = train(None, config), history(run)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert result["epochs"] == 3 and result["workers"] == 1 and result["backend"] == "tensorflow"
    assert result["best_epoch"] == written["best"]["epoch"]
    assert not goes_on(RunDirectory(config.run), changed(config, if_exists="overwrite"))
    (run / "history.json").unlink()  # as where it died between its last checkpoint and the files after it
    run_local(table, "plain", (run, 0), if_exists="resume")
    again = history(run)
    assert (
        again["finished"]
        and again["kept"] == pytest.approx(written["kept"], rel=1e-5)
        and again["epochs"] == written["epochs"]
    )


def test_a_second_run_into_one_directory_is_refused(stopped):
    with (
        lease.hold(stopped.run, "--run"),
        pytest.raises(UserError, match="--run: expected a folder that no other job writes to"),
    ):
        train(None, stopped)


def test_what_a_run_left_that_died_before_its_first_checkpoint_is_no_hindrance(stopped, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    check_train(changed(stopped, run=str(tmp_path)))
    (tmp_path / "model.keras").write_text("a model of a run whose checkpoints are gone")
    with pytest.raises(UserError, match="holds another run; name another folder, or replace it"):
        check_train(changed(stopped, run=str(tmp_path)))


def test_a_run_does_not_go_on_with_a_table_that_changed(stopped, table, tmp_path):
    content = json.loads((table / "manifest.json").read_text())
    content["shards"] = [
        shard
        for shard in content["shards"]
        if shard != next(other for other in content["shards"] if other["split"] == "train")
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="--table: expected the table that the run was trained on"):
        check_train(changed(stopped, table=str(tmp_path)))


def test_a_checkpoint_that_is_half_written_gives_way_to_the_one_before(stopped):
    run = RunDirectory(stopped.run)
    names = sorted(os.listdir(run.checkpoints))
    newest = os.path.join(run.checkpoints, names[-1])
    whole = open(newest, "rb").read()
    try:
        open(newest, "wb").write(whole[:-500])
        state = read_checkpoint(run).state
        assert f"{state['epoch']:05d}-{state['samples']:012d}.npz" == names[-2]
    finally:
        open(newest, "wb").write(whole)


def test_what_cannot_be_read_is_not_counted_among_the_newest(stopped, tmp_path):
    """A checkpoint that was cut off while it was written, on a store that cannot write at once, is later than those that
    training goes on with."""
    run = RunDirectory(str(tmp_path / "run"))
    os.makedirs(run.checkpoints)
    found = read_checkpoint(RunDirectory(stopped.run))

    def write(epoch, samples):
        write_checkpoint(run, Checkpoint({**found.state, "epoch": epoch, "samples": samples, "best": {"epoch": 1}}, {}))
        return sorted(os.listdir(run.checkpoints))

    write(1, 0), write(4, 100), write(4, 150)
    with open(os.path.join(run.checkpoints, "00005-000000000000.npz"), "wb") as half:
        half.write(b"PK")
    assert write(4, 200) == ["00001-000000000000.npz", "00004-000000000150.npz", "00004-000000000200.npz"]
    assert read_checkpoint(run, arrays=False).state["samples"] == 200


def test_a_run_goes_on_with_as_many_workers_as_hold_its_order_of_samples(table, tmp_path):
    """Four streams, each with a shard of 6 images of 1.9 kB at a time: of one worker alone they fill what 95 kB leave beside reading
    and batches, and three cannot share them."""
    config = TrainConfig(
        table=str(table), run=str(tmp_path), launcher="horovod", workers=4, batch_size=2, feed_memory="95k"
    )
    kept = {"streams": 4, "shuffle_rows": 4}
    assert [_with_most_workers(config, slots, kept).workers for slots in (4, 3, 2)] == [4, 2, 2]
    with pytest.raises(
        JobError, match="from 1 to the 1 remaining task slots that can resume the run, found none: --feed-memory"
    ):
        _with_most_workers(config, 1, kept)
    assert _with_most_workers(config, 1, None).workers == 1  # of a run that has no order yet


def test_a_worker_lost_before_the_first_checkpoint_is_begun_again_without_it(table, tmp_path):
    config = TrainConfig(table=str(table), run=str(tmp_path / "run"), launcher="horovod", workers=2)
    with lease.hold(config.run, "--run") as held:
        write_json(RunDirectory(config.run).config, {"version": RUN_VERSION, "job": held.token})
        assert _restart_config(config, 1, held) == dataclasses.replace(config, workers=1)


LOSE_A_BATCH = """
import sys
import cxrflow.training.fit as fit
from cxrflow.base import lease
from cxrflow.base.config import TrainConfig
from cxrflow.pipeline.train_job import train

batches = fit.Feed.epoch

def all_but_one(feed, *arguments):
    for step, batch in enumerate(batches(feed, *arguments)):
        if step != 2:
            yield batch

fit.Feed.epoch = all_but_one
train(None, TrainConfig(table=sys.argv[1], run=sys.argv[2], model="plain", batch_size=1))
"""


def test_a_feed_that_loses_a_sample_stops_training_with_the_shards_name(table, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOSE_A_BATCH, str(table), str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 1 and "not every sample was fed exactly once" in done.stderr
    assert any(
        f"{shard.path} ({shard.rows - 1} samples fed, {shard.rows} expected)" in done.stderr
        for shard in read_manifest(str(table)).of_split("train")
    )
