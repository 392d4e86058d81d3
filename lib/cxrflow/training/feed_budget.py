"""How a feed uses the memory it may take: a pure function of the table's sizes and ``--feed-memory``.

A worker holds one window of shuffled rows for each of its streams, and reads ahead with what is left. Where all that it
may come to read fits, it keeps it, and reads nothing twice.
Letters as in ``plan``; R is the largest number of rows of a shard, w the rows of one stream's window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cxrflow.base.config import TrainConfig, parse_bytes
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest
from cxrflow.training.epoch_plan import DEFAULT_STREAMS

READ_COPIES = 3  # of a shard, that pyarrow holds beside the result while it reads: the file's pages, a buffer that grows by moving
READER_THREADS = 2  # that read Parquet at the same time in each worker, where the memory allows it
BATCHES = 4  # that are gathered, fed, kept to fill up the last one, and copied by the backend


@dataclass(frozen=True, kw_only=True)
class FeedSize:
    """What a feed is given. ``streams`` and ``shuffle_rows`` decide the order of the samples, so a resumed run keeps
    them; the others do not."""

    streams: int = DEFAULT_STREAMS
    shuffle_rows: int = 8192
    held_bytes: int = 2**30
    """Largest size of all shards that a worker holds or reads at a time, in bytes."""
    reader_threads: int = READER_THREADS
    keep: bool = False
    """Whether shards stay in memory once they are read, since all of the splits that are fed fit into held_bytes."""


def size_feed(
    shard_rows: list[int],
    image_bytes: int,
    *,
    batch_size: int,
    workers: int,
    memory: int,
    shuffle_rows: int,
) -> FeedSize:
    """The most streams, then the most reading threads, then the largest windows up to ``shuffle_rows`` that
    ``memory`` bytes a worker allow. Raises UserError where they do not hold one shard while the next is read."""
    for streams in _streams(workers):
        for threads in range(READER_THREADS, 0, -1):
            held = _held(shard_rows, image_bytes, batch_size, memory, threads)
            rows = (held // image_bytes - max(shard_rows)) // (streams // workers)  # one more shard is read ahead
            if rows >= max(shard_rows):
                keep = sum(shard_rows) * image_bytes <= held
                window = shuffle_rows // streams
                if not keep:
                    window = min(window, rows - 2 * max(shard_rows) + 2)
                return FeedSize(
                    streams=streams,
                    shuffle_rows=max(1, window) * streams,
                    held_bytes=held,
                    reader_threads=threads,
                    keep=keep,
                )
    least = _least(shard_rows, image_bytes, batch_size, 2 * max(shard_rows))
    raise _too_small(memory, least, shard_rows, image_bytes)


def resize_feed(
    size: FeedSize,
    shard_rows: list[int],
    image_bytes: int,
    *,
    batch_size: int,
    workers: int,
    memory: int,
) -> FeedSize:
    """The same order of samples with another number of workers, batch size or memory. Raises UserError where they do
    not go together."""
    rows = window_rows(size, shard_rows) * (size.streams // math.gcd(size.streams, workers)) + max(shard_rows)
    for threads in range(READER_THREADS, 0, -1):
        held = _held(shard_rows, image_bytes, batch_size, memory, threads)
        keep = sum(shard_rows) * image_bytes <= held
        if keep or rows * image_bytes <= held:
            return FeedSize(
                streams=size.streams, shuffle_rows=size.shuffle_rows, held_bytes=held, reader_threads=threads, keep=keep
            )
    raise _too_small(memory, _least(shard_rows, image_bytes, batch_size, rows), shard_rows, image_bytes)


def feed_size(config: TrainConfig, manifest: Manifest, kept: dict | None = None) -> FeedSize:
    """The size of the feeds of a training, whose train and val splits are fed one after the other.

    ``kept``: streams and shuffle_rows of the run that is resumed. Raises UserError where the memory is too small.
    """
    shard_rows = [shard.rows for split in ("train", "val") for shard in manifest.of_split(split)]
    image_bytes = manifest.height * manifest.width
    limits = {
        "batch_size": config.batch_size,
        "workers": config.workers,
        "memory": parse_bytes("--feed-memory", config.feed_memory),
    }
    if kept is None:
        return size_feed(shard_rows, image_bytes, shuffle_rows=config.shuffle_rows, **limits)
    return resize_feed(FeedSize(**kept), shard_rows, image_bytes, **limits)


def window_rows(size: FeedSize, shard_rows: list[int]) -> int:
    """The most rows that the shards of one stream's window have: it ends with the shard that fills it, and the shards
    at both ends may be cut, though they are held whole."""
    window, largest = size.shuffle_rows // size.streams, max(shard_rows)
    return largest if window <= 1 else window + 2 * largest - 2


def _streams(workers: int) -> Iterator[int]:
    """Numbers of streams to try: those that most numbers of workers divide first."""
    if DEFAULT_STREAMS % workers:
        yield from range(workers * -(-DEFAULT_STREAMS // workers), 0, -workers)
    else:
        yield from (n for n in range(DEFAULT_STREAMS, 0, -1) if DEFAULT_STREAMS % n == 0 and n % workers == 0)


def _held(shard_rows: list[int], image_bytes: int, batch_size: int, memory: int, threads: int) -> int:
    """Bytes that are left for shards, beside what reading and batches take for themselves."""
    return memory - threads * READ_COPIES * max(shard_rows) * image_bytes - BATCHES * batch_size * image_bytes


def _least(shard_rows: list[int], image_bytes: int, batch_size: int, rows: int) -> int:
    return (rows + READ_COPIES * max(shard_rows) + BATCHES * batch_size) * image_bytes


def _too_small(memory: int, least: int, shard_rows: list[int], image_bytes: int) -> UserError:
    return UserError(
        f"--feed-memory: expected at least {-(-least // 2**20)}m for this table, whose largest shard has "
        f"{max(shard_rows)} images of {image_bytes / 2**20:.2f} MB, got {memory / 2**20:.0f}m; give it more, take a "
        "smaller --batch-size or more --workers, or ingest with fewer --shard-rows"
    )
