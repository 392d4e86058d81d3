"""The feed against a real table, through real Petastorm readers."""

import shutil
import threading

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cxrflow.manifest import read_manifest
from cxrflow.training.feed import Feed


def feed(table, rank=0, workers=1, split="train", **changes):
    settings = {"batch_size": 5, "seed": 1, "shuffle_rows": 24} | changes
    return Feed(str(table), read_manifest(str(table)), split, rank=rank, workers=workers, **settings)


def stored(table):
    return pd.read_parquet(table / "samples").set_index("sample_id")


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_all_workers_together_feed_every_sample_once_an_epoch(table, workers):
    train = stored(table).query("split == 'train'")
    for epoch in (0, 1):
        batches = [list(feed(table, rank, workers).epoch(epoch)) for rank in range(workers)]
        fed = np.concatenate([batch.sample_ids for of_rank in batches for batch in of_rank])
        assert sorted(fed) == sorted(train.index)
        assert len({len(of_rank) for of_rank in batches}) == 1


def test_rows_are_what_the_table_holds(table):
    rows, labels = stored(table), read_manifest(str(table)).labels
    for batch in feed(table).epoch(3):
        for place, sample in enumerate(batch.sample_ids):
            assert batch.pixels[place].tobytes() == rows.loc[sample, "pixels"]
            assert labels[batch.targets[place].argmax()] == rows.loc[sample, "label"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_weighted_mean_over_workers_is_the_mean_of_the_true_samples(table, workers):
    """Also at the last step, where some workers have fewer true samples than others, or none."""
    streams = [feed(table, rank, workers, batch_size=7).epoch(0) for rank in range(workers)]
    for parts in zip(*streams, strict=True):
        true = np.concatenate([part.pixels[:len(part.sample_ids)] for part in parts]).mean(axis=(1, 2, 3))
        weighted = [np.mean(part.weights * part.pixels.mean(axis=(1, 2, 3))) for part in parts]
        assert np.mean(weighted) == pytest.approx(true.mean(), rel=1e-5)
        assert {part.pixels.shape for part in parts} == {(7, 48, 40, 1)}
        assert min(part.pixels.max(axis=(1, 2, 3)).min() for part in parts) > 0  # no black image fills a batch


def test_an_epoch_can_start_at_any_step(table):
    whole = [batch.sample_ids.tolist() for batch in feed(table).epoch(2)]
    for first in range(len(whole) + 1):
        assert [batch.sample_ids.tolist() for batch in feed(table).epoch(2, first_step=first)] == whole[first:]


@pytest.fixture
def copy(table, tmp_path):
    return shutil.copytree(table, tmp_path / "copy")


def first_shard(copy):
    return copy / read_manifest(str(copy)).of_split("train")[0].path


def test_a_shard_that_vanished_is_named(copy):
    first_shard(copy).unlink()
    with pytest.raises(RuntimeError, match="cannot train on .*samples/split=train/"):
        list(feed(copy).epoch())


def test_a_truncated_shard_is_named(copy):
    shard = first_shard(copy)
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(RuntimeError, match="cannot train on .*samples/split=train/"):
        list(feed(copy).epoch())


def test_a_shard_with_fewer_rows_than_the_manifest_says_is_named(copy):
    shard = first_shard(copy)
    pq.write_table(pq.ParquetFile(shard).read().slice(1), shard)
    with pytest.raises(RuntimeError, match=f"{shard.name}: its samples are not those that the manifest says"):
        list(feed(copy).epoch())


def test_a_feed_that_is_left_early_leaves_no_thread_behind(table):
    before = threading.active_count()
    batches = feed(table).epoch()
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_row_groups_may_arrive_in_any_order(table, monkeypatch):
    """Under load Petastorm's threads overtake each other; here they always do."""
    import cxrflow.training.feed as module

    class Reversed:
        def __init__(self, *arguments, **options):
            self._reader = make_batch_reader(*arguments, **options)
            self.stop, self.join, self.ventilator = self._reader.stop, self._reader.join, self._reader.ventilator

        def __iter__(self):
            return reversed(list(self._reader))

    make_batch_reader = module.make_batch_reader
    expected = [batch.sample_ids.tolist() for batch in feed(table).epoch()]
    monkeypatch.setattr(module, "make_batch_reader", Reversed)
    assert [batch.sample_ids.tolist() for batch in feed(table).epoch()] == expected


def test_no_row_group_is_lost_to_a_reader_that_is_faster_than_its_threads(table):
    for epoch in range(60):
        assert sum(len(batch.sample_ids) for batch in feed(table, shuffle_rows=6).epoch(epoch)) == 28
