"""A worker that cannot go on stops the others, under every launcher, and says which file is to blame."""

import shutil
import time

import pyarrow.parquet as pq
import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError
from cxrflow.base.manifest import read_manifest
from cxrflow.launch.supervisor import supervise
from cxrflow.pipeline.train_job import train
from cxrflow.training.epoch_plan import EpochPlan

SECONDS = 60
"""For the whole launch: starting two workers, loading their framework, and the end of all after the failure."""


def vanish(shard):
    shard.unlink()


def truncate(shard):
    shard.write_bytes(shard.read_bytes()[:-200])


def reshape(shard):
    pq.write_table(pq.ParquetFile(shard).read().slice(1), shard)


def only_of_rank_1(copy) -> str:
    """The path of a shard that worker 1 of 2 reads in the first epoch and worker 0 does not; nor does the preflight,
    which reads the first."""
    shards = read_manifest(str(copy)).of_split("train")
    plan = EpochPlan(shard_rows=[shard.rows for shard in shards], workers=2, batch_size=4, seed=0, epoch=0, streams=2)
    zero, one = (set(plan.order(rank).shards.tolist()) for rank in range(2))
    return shards[min(one - zero - {0})].path


@pytest.mark.parametrize(("launcher", "damage"), [("horovod", vanish), ("torch", truncate), ("torch", reshape)])
def test_a_shard_that_only_one_worker_reads_stops_both_within_seconds(spark, table, tmp_path, launcher, damage):
    copy = shutil.copytree(table, tmp_path / "copy")
    shard = copy / only_of_rank_1(copy)
    damage(shard)
    started = time.monotonic()
    with pytest.raises(JobError, match=f"cannot train on {shard}"):
        # The least memory leaves two streams, so that each worker reads shards of its own.
        train(
            spark,
            TrainConfig(
                table=str(copy),
                run=str(tmp_path / "run"),
                launcher=launcher,
                workers=2,
                epochs=50,
                batch_size=4,
                model="plain",
                feed_memory="90k",
            ),
        )
    assert time.monotonic() - started < SECONDS


def test_who_broke_is_named_though_the_launcher_ended_the_other_one_for_it(spark, table, tmp_path):
    """Worker 1 breaks while the other does something that needs nobody else, and is then ended by its launcher."""

    def break_alone(config, worker):
        import time

        import numpy as np

        worker.report_progress("train" if worker.rank else "validate", epoch=1, step=3)
        worker.all_reduce_mean([np.zeros(1)])  # both are there
        if worker.rank:
            raise ValueError("no such thing")
        time.sleep(60)

    config = TrainConfig(table=str(table), run=str(tmp_path / "run"), launcher="torch", workers=2)
    with pytest.raises(JobError, match=r"ValueError: no such thing \(worker 1 .*in train of epoch 1 at step 3"):
        supervise(spark, config, break_alone, lambda config, slots: config, lambda event: None, lambda: None)
