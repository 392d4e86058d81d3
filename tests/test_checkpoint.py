"""Checkpoints as files: which stay, which are read, and what may change before a run resumes."""

import dataclasses
import os

import numpy as np
import pytest

from cxrflow.base import lease, storage
from cxrflow.base.config import TrainConfig, VacuumConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest, RunDirectory, Shard
from cxrflow.catalog.commit import commit
from cxrflow.distributed.worker import Worker
from cxrflow.pipeline.vacuum_job import vacuum
from cxrflow.training import checkpoint
from cxrflow.training.checkpoint import (
    VERSION,
    Checkpoint,
    CheckpointClock,
    Due,
    check_resumable,
    find_manifest,
    read_checkpoint,
    table_digest,
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


def test_a_run_resumes_with_the_generation_of_the_table_that_it_began_with(run, tmp_path):
    config = TrainConfig(table=str(tmp_path / "table"), run=run.url, epochs=2)
    manifests = []
    for number in (1, 2):
        shard = Shard(path=f"samples/{number}.parquet", split="train", rows=1, labels={"A": 1}, checksum="0")
        manifest = Manifest(
            generation=number, height=1, width=1, labels=["A"], shard_rows=1, shards=[shard], quarantined={},
            quarantine=[], columns={}, table_id="t",
            config={"height": 1, "width": 1, "decoder": "turbo", "resize": "pad", "max_pixels": 1},
        )  # fmt: skip
        storage.write_bytes(storage.join(config.table, shard.path), b"")
        with lease.hold(config.table, "--table") as held:
            manifests.append(commit(config.table, storage.join(config.table, "_staging"), manifest, held))
    assert find_manifest(config) == manifests[1]
    assert find_manifest(dataclasses.replace(config, generation=1)) == manifests[0]
    state = {"version": VERSION, "epoch": 1, "samples": 0, "best": None, "table": table_digest(manifests[0])}
    write_checkpoint(run, Checkpoint({**state, "config": to_dict(config)}, {}))
    assert find_manifest(config) == manifests[0]
    assert find_manifest(dataclasses.replace(config, if_exists="overwrite")) == manifests[1]
    vacuum(VacuumConfig(table=config.table, grace_hours=0))
    found = find_manifest(config)
    assert found == manifests[1]
    with pytest.raises(
        UserError, match="start another --run from this one's weights with --init-weights .*model.keras"
    ):
        check_resumable(read_checkpoint(run).state, config, found)
