"""The feed over a real table: every sample once, exact batches, faults that name the shard, no threads left."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrflow.base.manifest import read_manifest
from cxrflow.training import shard_reader
from cxrflow.training.feed import Feed
from cxrflow.training.feed_budget import FeedSize
from synthetic_table import make_table

pytestmark = pytest.mark.usefixtures("reader")

FEED_PROCESS = Path(__file__).with_name("feed_process.py")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """29 images of the train split, 48x40 pixels, in shards of 6 rows."""
    folder = tmp_path_factory.mktemp("feed") / "table"
    make_table(folder)
    return folder


@pytest.fixture
def table_copy(table, tmp_path):
    return shutil.copytree(table, tmp_path / "copy")


def make_feed(table, rank=0, workers=1, split="train", size=None, **changes):
    settings = {"batch_size": 5, "seed": 1, "size": size or FeedSize(shuffle_rows=24)} | changes
    return Feed(str(table), read_manifest(str(table)), split, rank=rank, workers=workers, **settings)


def stored_rows(table):
    return pd.read_parquet(table / "samples").set_index("sample_id")


def train_ids(table):
    return sorted(stored_rows(table).query("split == 'train'").index)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_all_workers_together_feed_every_sample_once_an_epoch(table, workers):
    for epoch in (0, 1):
        batches = [list(make_feed(table, rank, workers).epoch(epoch)) for rank in range(workers)]
        fed = np.concatenate([batch.sample_ids for of_rank in batches for batch in of_rank])
        assert sorted(fed) == train_ids(table)
        assert len({len(of_rank) for of_rank in batches}) == 1


def test_rows_equal_the_stored_rows(table):
    rows, labels = stored_rows(table), read_manifest(str(table)).labels
    for batch in make_feed(table).epoch(3):
        for index, sample in enumerate(batch.sample_ids):
            assert batch.pixels[index].tobytes() == rows.loc[sample, "pixels"]
            assert labels[batch.targets[index].argmax()] == rows.loc[sample, "label"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_weighted_mean_over_workers_is_the_mean_of_the_samples(table, workers):
    """Also at the last step, where some workers have fewer samples than others, or none."""
    iterators = [make_feed(table, rank, workers, batch_size=7).epoch(0) for rank in range(workers)]
    for batches in zip(*iterators, strict=True):
        samples = np.concatenate([batch.pixels[: len(batch.sample_ids)] for batch in batches]).mean(axis=(1, 2, 3))
        weighted = [np.mean(batch.weights * batch.pixels.mean(axis=(1, 2, 3))) for batch in batches]
        assert np.mean(weighted) == pytest.approx(samples.mean(), rel=1e-5)
        assert {batch.pixels.shape for batch in batches} == {(7, 48, 40, 1)}
        assert min(batch.pixels.max(axis=(1, 2, 3)).min() for batch in batches) > 0  # no black image is padding


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 5), (2, 4), (3, 1), (5, 2)])
def test_an_epoch_resumes_at_any_sample_with_any_number_of_workers(table, workers, batch_size):
    """What two workers fed, and what others feed afterwards, is together every sample exactly once."""
    steps = make_feed(table, 0, 2).plan(2).steps
    for stopped in range(steps + 1):
        iterators = [make_feed(table, rank, 2).epoch(2) for rank in range(2)]
        fed = [next(iterator).sample_ids for iterator in iterators for _ in range(stopped)]
        for iterator in iterators:
            iterator.close()
        first = make_feed(table, 0, 2).plan(2).fed_before(stopped)
        assert sum(map(len, fed)) == first
        fed += [
            batch.sample_ids
            for rank in range(workers)
            for batch in make_feed(table, rank, workers, batch_size=batch_size).epoch(2, first_sample=first)
        ]
        assert sorted(np.concatenate(fed)) == train_ids(table)


def test_a_resumed_epoch_gives_the_batches_of_an_uninterrupted_one(table):
    whole = [batch.sample_ids.tolist() for batch in make_feed(table).epoch(2)]
    for step in range(len(whole) + 1):
        rest = make_feed(table).epoch(2, first_sample=make_feed(table).plan(2).fed_before(step))
        assert [batch.sample_ids.tolist() for batch in rest] == whole[step:]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_an_epoch_resumes_with_the_other_reader(table, reader, monkeypatch, step):
    plan, rest = make_feed(table).plan(2), {}
    for name in (reader, "arrow"):
        monkeypatch.setattr(shard_reader, "default_reader", lambda name=name: name)
        batches = make_feed(table).epoch(2, first_sample=plan.fed_before(step))
        rest[name] = [(batch.sample_ids.tolist(), batch.pixels.tobytes()) for batch in batches]
    assert len(rest["arrow"]) == plan.steps - step and rest["arrow"] == rest[reader]


def test_no_row_group_is_lost_however_fast_it_is_taken(table):
    samples = make_feed(table).plan().samples
    for epoch in range(60):
        fed = make_feed(table, size=FeedSize(shuffle_rows=6)).epoch(epoch)
        assert sum(len(batch.sample_ids) for batch in fed) == samples


@pytest.mark.parametrize("workers", [1, 2])
def test_a_table_that_fits_into_memory_is_read_once(table_copy, workers):
    size = FeedSize(shuffle_rows=24, keep_in_memory=True)
    feeds = [make_feed(table_copy, rank, workers, size=size) for rank in range(workers)]
    expected_ids = train_ids(table_copy)
    for epoch in range(30):  # enough for each of two workers to need every shard at least once
        fed = [sample for feed in feeds for batch in feed.epoch(epoch) for sample in batch.sample_ids.tolist()]
        assert sorted(fed) == expected_ids
    streamed = make_feed(table_copy, workers=workers, size=FeedSize(shuffle_rows=24))
    expected = [batch for epoch in (30, 31) for batch in streamed.epoch(epoch)]
    shutil.rmtree(table_copy / "samples")
    batches = [batch for epoch in (30, 31) for batch in feeds[0].epoch(epoch)]
    for batch, same in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch.pixels, same.pixels)
        np.testing.assert_array_equal(batch.sample_ids, same.sample_ids)


def test_each_wait_for_a_shard_is_reported(table):
    waits = []
    feed = make_feed(table, on_wait=waits.append)
    list(feed.epoch())
    assert waits == [feed.shards[shard].path for shard in feed.plan().schedule(0).shards]


def first_shard(table):
    return table / read_manifest(str(table)).of_split("train")[0].path


def test_a_missing_shard_is_named(table_copy):
    first_shard(table_copy).unlink()
    with pytest.raises(RuntimeError, match=r"cannot train on .*samples/split=train/"):
        list(make_feed(table_copy).epoch())


def test_a_truncated_shard_is_named(table_copy):
    shard = first_shard(table_copy)
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(RuntimeError, match=r"cannot train on .*samples/split=train/"):
        list(make_feed(table_copy).epoch())


def test_a_shard_with_fewer_rows_than_the_manifest_says_is_named(table_copy):
    shard = first_shard(table_copy)
    pq.write_table(pq.ParquetFile(shard).read().slice(1), shard)
    with pytest.raises(RuntimeError, match=f"{shard.name}: expected 6 samples .* as the manifest says, got 5"):
        list(make_feed(table_copy).epoch())


def test_images_of_another_size_are_named(table_copy):
    shard = first_shard(table_copy)
    rows = pq.ParquetFile(shard).read()
    short = pa.array([pixels.as_py()[:-1] for pixels in rows["pixels"]], pa.binary())
    pq.write_table(rows.set_column(rows.column_names.index("pixels"), "pixels", short), shard)
    with pytest.raises(RuntimeError, match=f"{shard.name}: expected images of 1920 bytes.*got one of 1919 bytes"):
        list(make_feed(table_copy).epoch())


def test_a_label_that_the_manifest_does_not_have_is_named(table_copy):
    shard = first_shard(table_copy)
    rows = pq.ParquetFile(shard).read()
    other = pa.array(["OTHER"] * len(rows), pa.string())
    pq.write_table(rows.set_column(rows.column_names.index("label"), "label", other), shard)
    with pytest.raises(RuntimeError, match=f"{shard.name}: expected one of the labels NORMAL, PNEUMONIA.*got OTHER"):
        list(make_feed(table_copy).epoch())


def test_a_missing_column_is_named(table_copy):
    shard = first_shard(table_copy)
    pq.write_table(pq.ParquetFile(shard).read().drop_columns(["label"]), shard)
    with pytest.raises(RuntimeError, match=f"cannot train on .*{shard.name}.*label"):
        list(make_feed(table_copy).epoch())


def test_a_feed_that_is_left_early_leaves_no_thread_behind(table):
    before = threading.active_count()
    batches = make_feed(table).epoch()
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_a_feed_that_fails_leaves_no_thread_behind(table_copy):
    before = threading.active_count()
    first_shard(table_copy).unlink()
    with pytest.raises(RuntimeError):
        list(make_feed(table_copy).epoch())
    assert threading.active_count() == before


@pytest.mark.spark
def test_the_memory_of_a_feed_keeps_to_its_budget_and_does_not_grow_with_the_epochs(tmp_path, reader):
    command = [sys.executable, "-W", "ignore", str(FEED_PROCESS), str(tmp_path), reader]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    before, first, last, budget = map(int, process.stdout.split())
    assert last - before < budget and last - first < budget // 8, process.stdout
