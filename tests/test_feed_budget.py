"""How a feed divides its memory, and that the least memory it accepts is enough."""

import numpy as np
import pytest

from cxrflow.base.errors import UserError
from cxrflow.training.feed import Feed
from cxrflow.training.feed_budget import FeedSize, adapt_size, choose_size
from synthetic_table import make_table

IMAGE_BYTES = 48 * 40


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(folder, manifest) of a table with 48x40 pixels and shards of at most 6 rows."""
    folder = tmp_path_factory.mktemp("budget") / "table"
    return str(folder), make_table(folder)


def shard_rows(manifest):
    return [shard.rows for shard in manifest.shards]


def fed_ids(table, size, workers):
    folder, manifest = table
    feeds = [
        Feed(folder, manifest, "train", rank=rank, workers=workers, batch_size=5, seed=1, size=size)
        for rank in range(workers)
    ]
    return np.concatenate([batch.sample_ids for feed in feeds for batch in feed.epoch(1)])


def test_too_little_memory_is_refused_with_the_least_that_is_needed(table):
    with pytest.raises(UserError, match="--feed-memory: expected at least 1m") as error:
        choose_size(shard_rows(table[1]), IMAGE_BYTES, batch_size=5, workers=1, memory=10_000, shuffle_rows=100)
    assert "largest shard has 6 images" in str(error.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_least_memory_that_is_accepted_is_enough(table, workers):
    """The memory of every accepted size is enough for the read that is needed next, so no feed waits forever."""
    rows, limits = shard_rows(table[1]), {"batch_size": 5, "workers": workers}
    streams = set()
    for memory in range(100_000, 520_000, 20_000):
        size = choose_size(rows, IMAGE_BYTES, memory=memory, shuffle_rows=100, **limits)
        adapted = adapt_size(size, rows, IMAGE_BYTES, memory=memory, **limits)
        assert size == adapted or size.reader_threads < 2
        streams.add(size.streams)
        fed = fed_ids(table, size, workers)
        assert len(np.unique(fed)) == len(fed) == table[1].rows("train")
    assert len(streams) > 3


def test_a_table_stays_in_memory_if_all_of_it_fits(table):
    rows, limits = shard_rows(table[1]), {"batch_size": 5, "workers": 1, "shuffle_rows": 100}
    table_bytes = sum(rows) * IMAGE_BYTES
    small = choose_size(rows, IMAGE_BYTES, memory=100_000, **limits)
    large = choose_size(rows, IMAGE_BYTES, memory=110_000 + table_bytes, **limits)
    assert (small.keep_in_memory, large.keep_in_memory) == (False, True)
    assert small.held_bytes < table_bytes <= large.held_bytes


def test_too_little_memory_for_the_windows_is_an_error_instead_of_a_hang(table):
    with pytest.raises(ValueError, match="held_bytes: expected at least"):
        fed_ids(table, FeedSize(held_bytes=12_000), workers=1)
