"""A worker that fails stops the others, under every launcher, and the error names the cause."""

import shutil
import time

import pyarrow.parquet as pq
import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.distributed.messages import Failure, Progress
from cxrflow.distributed.timeouts import Timeouts
from cxrflow.launch.monitor import Loss, WorkerState, follows_step
from cxrflow.launch.supervisor import (
    find_early_failure,
    is_same_failure,
    raise_own_failure,
    supervise,
)
from cxrflow.training.epoch_plan import EpochPlan

SECONDS = 60
"""For a whole launch: two workers start and import their framework, one fails, both end."""


def run(spark, config, function):
    return supervise(spark, config, function, lambda config, slots: config, lambda event: None, lambda: None)


def remove(shard):
    shard.unlink()


def drop_a_row(shard):
    pq.write_table(pq.ParquetFile(shard).read().slice(1), shard)


def only_of_rank_1(copy) -> str:
    """The path of a shard that, in the first epoch, worker 1 of 2 reads and worker 0 does not."""
    shards = read_manifest(str(copy)).of_split("train")
    plan = EpochPlan(shard_rows=[shard.rows for shard in shards], workers=2, batch_size=4, seed=0, epoch=0, streams=2)
    zero, one = (set(plan.schedule(rank).shards.tolist()) for rank in range(2))
    return shards[min(one - zero - {0})].path


@pytest.mark.cluster
@pytest.mark.parametrize(("launcher", "damage"), [("horovod", remove), ("torch", drop_a_row)])
def test_a_shard_that_only_one_worker_reads_stops_both_within_seconds(spark, table, tmp_path, launcher, damage):
    def fit(config, worker):  # nested, so that it travels by value: workers cannot import this file
        from cxrflow.training.fit import fit

        return fit(config, worker)

    copy = shutil.copytree(table, tmp_path / "copy")
    shard = copy / only_of_rank_1(copy)
    damage(shard)
    config = TrainConfig(
        table=str(copy),
        run=str(tmp_path / "run"),
        launcher=launcher,
        workers=2,
        epochs=50,
        batch_size=4,
        model="plain",
        feed_memory="90k",  # the least, which leaves two streams, so that each worker reads shards of its own
    )
    started = time.monotonic()
    with pytest.raises(JobError, match=f"cannot train on {shard}"):
        run(spark, config, fit)
    assert time.monotonic() - started < SECONDS


@pytest.mark.cluster
def test_the_worker_that_failed_is_named_although_the_launcher_ended_the_other_one_for_it(spark, table, tmp_path):
    """Worker 1 fails while worker 0 is in a phase that needs no other worker, and the launcher ends worker 0."""

    def fail_alone(config, worker):
        import time

        import numpy as np

        worker.report_progress("train" if worker.rank else "validate", epoch=1, step=3)
        worker.all_reduce_mean([np.zeros(1)])  # both have come so far
        if worker.rank:
            raise ValueError("no such thing")
        time.sleep(60)

    config = TrainConfig(table=str(table), run=str(tmp_path / "run"), launcher="torch", workers=2)
    with pytest.raises(JobError, match=r"ValueError: no such thing \(worker 1 .*in train of epoch 1 at step 3"):
        run(spark, config, fail_alone)


BUG = Failure(reason="ValueError: no")
COLLECTIVE = Failure(reason="RuntimeError: gloo", collective=True)
USER = Failure(reason="--table: none", expected=True, bad_input=True)
JOB = Failure(reason="disk full", expected=True)


def failed(failure, at=100.0):
    progress = Progress(phase="train", epoch=1, step=3)
    return WorkerState(1, "host", 7, progress=progress, finished=True, failure=failure, ended_at=at)


def lost(at, **how):
    return Loss(WorkerState(0, disconnected=True, ended_at=at), "killed", **how)


@pytest.mark.parametrize(
    ("workers", "losses", "raised"),
    [
        ([], [], None),
        ([failed(BUG)], [], JobError),
        ([failed(COLLECTIVE)], [], None),  # another worker is to blame
        ([failed(COLLECTIVE), failed(USER)], [], UserError),
        ([failed(USER)], [lost(at=90)], UserError),  # a message for the user counts in any case
        ([failed(JOB)], [lost(at=90)], JobError),
        ([failed(BUG)], [lost(at=90)], None),  # the loss came first, so it may have caused the failure
        ([failed(BUG)], [lost(at=100.4)], None),  # within the time that reports take
        ([failed(BUG)], [lost(at=101)], JobError),  # the launcher ended the other worker
        ([failed(BUG)], [lost(at=101), lost(at=90)], None),
        ([failed(BUG)], [lost(at=101, hung=True)], None),
        ([failed(BUG)], [lost(at=101, unreachable=True)], None),
    ],
)
def test_which_failure_ends_the_training(workers, losses, raised):
    if raised is None:
        raise_own_failure(workers, losses, Timeouts())
        return
    with pytest.raises(raised, match=r"\(worker 1 \(process 7 on host\), in train of epoch 1 at step 3\)$"):
        raise_own_failure(workers, losses, Timeouts())


def exited(phase="start", **how):
    return Loss(WorkerState(0, progress=Progress(phase=phase), exited=True, disconnected=True), "it ended", **how)


def machine_gone():
    return Loss(WorkerState(0, progress=Progress(), disconnected=True), "it ended")


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (([exited()], []), ([exited()], []), True),
        (([exited()], []), ([exited(), exited("first train")], []), True),
        (([exited("feed")], []), ([exited("first train")], []), False),  # another phase
        (([machine_gone()], []), ([machine_gone()], []), False),  # nobody reports that the process ended
        (([exited(hung=True)], []), ([exited(hung=True)], []), False),
        (([exited(unreachable=True)], []), ([exited(unreachable=True)], []), False),
        (([], [failed(COLLECTIVE)]), ([], [failed(COLLECTIVE)]), True),
        (([], [failed(COLLECTIVE)]), ([], [failed(Failure(reason="RuntimeError: other", collective=True))]), False),
        (([], []), ([], []), False),
    ],
)
def test_the_same_failure_again(before, now, same):
    assert is_same_failure(find_early_failure(*before), find_early_failure(*now)) == same


@pytest.mark.parametrize(
    ("progress", "made"),
    [
        (Progress(), False),
        (Progress(phase="feed", epoch=3, step=1), False),  # of a run that resumed in epoch 3
        (Progress(phase="first train", epoch=1, step=1), False),
        (Progress(phase="feed", epoch=1, step=2), True),
        (Progress(phase="train", epoch=1, step=2), True),
        (Progress(phase="checkpoint", epoch=1), True),
    ],
)
def test_whether_a_worker_has_made_a_step(progress, made):
    assert follows_step(progress) == made


@pytest.mark.cluster
def test_a_process_that_ends_twice_in_the_same_phase_before_its_first_step_ends_the_training(spark, table, tmp_path):
    def die(config, worker):
        import os

        with open(os.path.join(config.run, "launches"), "a") as file:
            file.write(f"{worker.rank}\n")
        os.abort()

    run_folder = tmp_path / "run"
    run_folder.mkdir()
    config = TrainConfig(table=str(table), run=str(run_folder), launcher="torch", workers=1, max_restarts=5)
    with pytest.raises(JobError, match=r"worker 0 .* was lost in start: .*; the attempt before ended in the same way"):
        run(spark, config, die)
    assert (run_folder / "launches").read_text().count("0") == 2
