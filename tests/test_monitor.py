"""Who is at fault when workers stand still: a pure function of what the driver sees."""

import pytest

from cxrflow.launch.monitor import WorkerState, find_losses

NOW, HANG = 1000.0, 30.0


def worker(rank, phase="train", *, epoch=2, step=7, idle=1.0, silent=0.5, **seen):
    at = {"phase": phase, "epoch": epoch, "step": step}
    return WorkerState(rank, "host", 100 + rank, at=at, since=NOW - idle, heard=NOW - silent, **seen)


@pytest.mark.parametrize(
    ("workers", "lost"),
    [
        ([worker(0), worker(1)], []),
        ([worker(0), worker(1, gone=True)], [1]),
        ([worker(0), worker(1, end={}, gone=True, silent=500)], []),  # it has finished
        ([worker(0), worker(1, end={}, silent=19)], [1]),  # it has, but its process has not ended
        ([worker(0), worker(1, end={"why": "no"}, gone=True)], []),  # it said why itself
        ([worker(0), worker(1, silent=19)], [1]),
        ([worker(0, idle=40), worker(1, "feed", idle=40)], [1]),  # 0 waits for 1, which reads
        ([worker(0, idle=40, step=8), worker(1, idle=39)], [1]),  # one step behind
        ([worker(0, "checkpoint", idle=40), worker(1, idle=40)], [0]),
        ([worker(0, idle=40), worker(1, idle=40, state="T")], [1]),
        ([worker(0, idle=40), worker(1, idle=40)], [0, 1]),  # nobody can tell
        ([worker(0, idle=40), worker(1, "feed", idle=20)], []),  # it has not read for so long yet
        ([worker(0, "first train", idle=100), worker(1, "first train", idle=100)], []),  # compiling takes long, once
        ([worker(0, "start", idle=130), worker(1, "first train", idle=130)], [0]),
    ],
)
def test_losses(workers, lost):
    found = find_losses(workers, NOW, HANG)
    assert [loss.seen.rank for loss in found] == lost


def test_a_place_in_words():
    seen = worker(1, "feed")
    seen.at["shard"] = "samples/split=train/7.parquet"
    assert seen.place() == "in feed of epoch 2 at step 7 with samples/split=train/7.parquet"
