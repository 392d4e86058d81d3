"""The shard store: shards by read, released within the budget, one schedule at a time."""

import threading

import numpy as np
import pytest

from cxrflow.training.epoch_plan import EpochPlan
from cxrflow.training.feed_budget import FeedSize
from cxrflow.training.shard_store import ShardStore
from synthetic_table import make_table

pytestmark = pytest.mark.usefixtures("reader")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "table"
    return str(folder), make_table(folder)


def make_store(table, **size):
    folder, manifest = table
    return ShardStore(folder, manifest, manifest.of_split("train"), FeedSize(**size))


def make_schedule(table, epoch=0):
    shard_rows = [shard.rows for shard in table[1].of_split("train")]
    plan = EpochPlan(shard_rows=shard_rows, workers=1, batch_size=5, seed=0, epoch=epoch, shuffle_rows=6, streams=2)
    return plan.schedule(0)


def test_a_read_is_there_from_its_load_to_its_release(table):
    store, schedule = make_store(table), make_schedule(table)
    with store.reading(schedule):
        for read, shard in enumerate(schedule.shards):
            assert store.get(read) is None
            columns = store.load(read)
            assert store.get(read) is columns
            assert len(columns.sample_ids) == store._shards[shard].rows
            assert columns.pixels.shape == (len(columns.sample_ids), 48 * 40) and columns.pixels.dtype == np.uint8
            store.release(read)
            assert store.get(read) is None


def test_shards_that_stay_in_memory_are_loaded_once(table):
    store = make_store(table, keep_in_memory=True)
    for epoch in range(3):
        schedule, loads = make_schedule(table, epoch), 0
        with store.reading(schedule):
            for read in range(len(schedule.shards)):
                if store.get(read) is None:
                    store.load(read)
                    loads += 1
                store.release(read)
        assert loads == (len(set(schedule.shards.tolist())) if epoch == 0 else 0)


def test_a_second_schedule_waits_for_the_end_of_the_first(table):
    store, schedule, before = make_store(table), make_schedule(table), threading.active_count()
    with store.reading(schedule):
        with pytest.raises(RuntimeError, match="previous epoch"), store.reading(schedule):
            pass
        assert store.load(0) is not None
    assert threading.active_count() == before
    with store.reading(schedule):
        assert store.get(0) is None


def test_reads_are_loaded_in_order(table):
    store, schedule = make_store(table), make_schedule(table)
    with store.reading(schedule), pytest.raises(RuntimeError, match="order of the schedule, got read 1"):
        store.load(1)
