"""The feed against a real table, through real Petastorm readers."""

import shutil
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrflow.base.errors import UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.training.feed import Feed
from cxrflow.training.feed_budget import FeedSize, resize_feed, size_feed


def feed(table, rank=0, workers=1, split="train", size=None, **changes):
    settings = {"batch_size": 5, "seed": 1, "size": size or FeedSize(shuffle_rows=24)} | changes
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
        true = np.concatenate([part.pixels[: len(part.sample_ids)] for part in parts]).mean(axis=(1, 2, 3))
        weighted = [np.mean(part.weights * part.pixels.mean(axis=(1, 2, 3))) for part in parts]
        assert np.mean(weighted) == pytest.approx(true.mean(), rel=1e-5)
        assert {part.pixels.shape for part in parts} == {(7, 48, 40, 1)}
        assert min(part.pixels.max(axis=(1, 2, 3)).min() for part in parts) > 0  # no black image fills a batch


@pytest.mark.parametrize("others", [(1, 5), (2, 4), (3, 1), (5, 2)])
def test_an_epoch_goes_on_at_any_sample_with_any_number_of_workers(table, others):
    """By identifiers: what two workers fed and what others feed afterwards is every sample exactly once."""
    workers, batch_size = others
    train = sorted(stored(table).query("split == 'train'").index)
    steps = feed(table, 0, 2).plan(2).steps
    for stopped in range(steps + 1):
        streams = [feed(table, rank, 2).epoch(2) for rank in range(2)]
        fed = [next(stream).sample_ids for stream in streams for _ in range(stopped)]
        for stream in streams:
            stream.close()
        first = feed(table, 0, 2).plan(2).fed_before(stopped)
        assert sum(map(len, fed)) == first
        fed += [
            batch.sample_ids
            for rank in range(workers)
            for batch in feed(table, rank, workers, batch_size=batch_size).epoch(2, first_sample=first)
        ]
        assert sorted(np.concatenate(fed)) == train


def test_going_on_gives_the_batches_that_would_have_come(table):
    whole = [batch.sample_ids.tolist() for batch in feed(table).epoch(2)]
    for step in range(len(whole) + 1):
        rest = feed(table).epoch(2, first_sample=feed(table).plan(2).fed_before(step))
        assert [batch.sample_ids.tolist() for batch in rest] == whole[step:]


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


def test_a_feed_that_fails_leaves_no_thread_behind(copy):
    before = threading.active_count()
    first_shard(copy).unlink()
    with pytest.raises(RuntimeError):
        list(feed(copy).epoch())
    assert threading.active_count() == before


def test_images_of_another_size_are_named(copy):
    shard = first_shard(copy)
    rows = pq.ParquetFile(shard).read()
    short = pa.array([pixels.as_py()[:-1] for pixels in rows["pixels"]], pa.binary())
    pq.write_table(rows.set_column(rows.column_names.index("pixels"), "pixels", short), shard)
    with pytest.raises(RuntimeError, match=f"{shard.name}: expected images of 1920 bytes"):
        list(feed(copy).epoch())


def test_a_missing_column_is_named(copy):
    shard = first_shard(copy)
    pq.write_table(pq.ParquetFile(shard).read().drop_columns(["label"]), shard)
    with pytest.raises(RuntimeError, match=f"cannot train on .*{shard.name}.*label"):
        list(feed(copy).epoch())


def test_no_row_group_is_lost_however_fast_it_is_taken(table):
    samples = feed(table).plan().samples
    for epoch in range(60):
        fed = feed(table, size=FeedSize(shuffle_rows=6)).epoch(epoch)
        assert sum(len(batch.sample_ids) for batch in fed) == samples


@pytest.mark.parametrize("workers", [1, 2])
def test_the_least_memory_that_is_allowed_is_enough(table, workers):
    """Reads wait for room, and the room that the budget grants is always enough for the read that is needed next."""
    rows, image = [shard.rows for shard in read_manifest(str(table)).shards], 48 * 40
    sizes = dict(batch_size=5, workers=workers, shuffle_rows=100)
    with pytest.raises(UserError, match="--feed-memory: expected at least 1m") as error:
        size_feed(rows, image, memory=10_000, **sizes)
    assert "largest shard has 6 images" in str(error.value)
    streams = set()
    for memory in range(100_000, 520_000, 20_000):
        size = size_feed(rows, image, memory=memory, **sizes)
        assert size == resize_feed(size, rows, image, batch_size=5, workers=workers, memory=memory) or (
            size.reader_threads < 2
        )
        streams.add(size.streams)
        fed = [batch.sample_ids for rank in range(workers) for batch in feed(table, rank, workers, size=size).epoch(1)]
        assert len(np.unique(np.concatenate(fed))) == sum(map(len, fed)) == feed(table).plan().samples
    assert len(streams) > 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_table_that_fits_into_memory_is_read_once(copy, workers):
    size = FeedSize(shuffle_rows=24, keep=True)
    feeds = [feed(copy, rank, workers, size=size) for rank in range(workers)]
    every = set(stored(copy).query("split == 'train'").index)
    for epoch in range(30):  # with two workers, each comes by all shards in time
        fed = [sample for one in feeds for batch in one.epoch(epoch) for sample in batch.sample_ids.tolist()]
        assert len(fed) == len(every) and set(fed) == every
    expected = [
        batch
        for epoch in (30, 31)
        for batch in feed(copy, workers=workers, size=FeedSize(shuffle_rows=24)).epoch(epoch)
    ]
    shutil.rmtree(copy / "samples")
    for batch, same in zip([batch for epoch in (30, 31) for batch in feeds[0].epoch(epoch)], expected, strict=True):
        np.testing.assert_array_equal(batch.pixels, same.pixels)
        np.testing.assert_array_equal(batch.sample_ids, same.sample_ids)


def test_a_table_is_kept_where_all_of_it_fits(table):
    rows = [shard.rows for shard in read_manifest(str(table)).shards]
    sizes = dict(batch_size=5, workers=1, shuffle_rows=100)
    whole = sum(rows) * 48 * 40
    small, large = (size_feed(rows, 48 * 40, memory=memory, **sizes) for memory in (100_000, 110_000 + whole))
    assert (small.keep, large.keep) == (False, True) and small.held_bytes < whole <= large.held_bytes


def test_too_little_memory_for_the_windows_is_refused_instead_of_waiting_for_ever(table):
    with pytest.raises(ValueError, match="held_bytes: expected at least"):
        list(feed(table, size=FeedSize(held_bytes=12_000)).epoch())


def test_the_memory_of_a_feed_does_not_grow_with_the_epochs_and_keeps_to_its_budget(tmp_path):
    """In a process of its own, on 600 images of 256 KB: after two epochs, memory stays where it is."""
    figures = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path)], check=True, capture_output=True, text=True
    )
    before, first, last, budget = map(int, figures.stdout.split())
    assert last - before < budget and last - first < budget // 8, figures.stdout


MEMORY = """
import sys
import numpy as np, pyarrow as pa
from cxrflow.base.manifest import Manifest, Shard
from cxrflow.base.shard_files import checksum, write_shard
from cxrflow.training.feed_budget import size_feed
from cxrflow.training.feed import Feed

def resident():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

shards = []
for number in range(60):
    ids = np.arange(10) + 10 * number
    rows = pa.table({"sample_id": ids, "label": ["A"] * 10, "pixels": [bytes(512 * 512)] * 10, "patient_id": ["p"] * 10})
    path = "samples/" + write_shard(sys.argv[1] + "/samples", "train", rows)
    shards.append(Shard(path=path, split="train", rows=10, labels={"A": 10}, checksum=checksum(ids)))
manifest = Manifest(generation=1, height=512, width=512, labels=["A"], shard_rows=10, shards=shards, quarantined={},
                    quarantine=[], config={}, columns={})
budget = 100 * 2**20
size = size_feed([10] * 60, 512 * 512, batch_size=8, workers=1, memory=budget, shuffle_rows=8192)
feed = Feed(sys.argv[1], manifest, "train", rank=0, workers=1, batch_size=8, size=size)
before = resident()
peaks = [max(resident() for _ in feed.epoch(epoch)) for epoch in range(8)]
print(before, max(peaks[:2]), max(peaks[2:]), budget)
"""
