"""Checkpoints as files: which stay, which are read, and what may change before a run resumes."""

import os

import numpy as np
import pytest

from cxrflow.base.manifest import RunDirectory
from cxrflow.distributed.worker import Worker
from cxrflow.training import checkpoint
from cxrflow.training.checkpoint import (
    VERSION,
    Checkpoint,
    CheckpointClock,
    Due,
    read_checkpoint,
    write_checkpoint,
)


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    os.makedirs(run.checkpoints)
    return run


def write(run, epoch, samples, best=1):
    """Write a checkpoint with one array; returns the names of all that are there."""
    state = {"version": VERSION, "epoch": epoch, "samples": samples, "best": {"epoch": best}}
    write_checkpoint(run, Checkpoint(state, {"model/0000": np.arange(1000.0) + samples}))
    return sorted(os.listdir(run.checkpoints))


def test_a_half_written_checkpoint_gives_way_to_the_one_before(run):
    write(run, 1, 0)
    newest = os.path.join(run.checkpoints, write(run, 1, 8)[-1])
    assert read_checkpoint(run).state["samples"] == 8
    with open(newest, "rb+") as file:
        file.truncate(os.path.getsize(newest) - 500)
    found = read_checkpoint(run)
    assert (found.state["epoch"], found.state["samples"]) == (1, 0)
    np.testing.assert_array_equal(found.arrays["model/0000"], np.arange(1000.0))


def test_an_unreadable_checkpoint_is_not_counted_among_the_newest(run):
    """On a store without atomic writes, one that was cut off has a later name than those that training resumes from."""
    write(run, 1, 0)
    write(run, 3, 0)
    write(run, 4, 100)
    with open(os.path.join(run.checkpoints, "00005-000000000000.npz"), "wb") as half:
        half.write(b"PK")
    assert write(run, 4, 200) == ["00001-000000000000.npz", "00004-000000000100.npz", "00004-000000000200.npz"]
    assert read_checkpoint(run, arrays=False).state["samples"] == 200


class StubWorker(Worker):
    stops = False

    def stop_requested(self) -> bool:
        return self.stops


def test_the_clock_looks_every_few_steps_and_stops_on_request(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    worker = StubWorker()
    clock = CheckpointClock(seconds=10, worker=worker, steps=100)  # looks every 5 steps
    assert [clock.due(step) for step in range(5)] == [Due.NOTHING] * 5
    now[0] = 11.0
    assert [clock.due(step) for step in range(5, 10)] == [Due.NOTHING] * 4 + [Due.CHECKPOINT]
    assert clock.due(14) == Due.NOTHING and not clock.stops()
    worker.stops = True
    assert clock.due(15) == Due.NOTHING and clock.due(19) == Due.STOP and clock.stops()
