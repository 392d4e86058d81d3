"""How a feed uses its memory: a pure function of the table's sizes and ``--feed-memory``.

A worker holds one shuffle window for each of its streams and reads ahead with the rest of its memory. If all shards
that it may ever read fit, it keeps them in memory and reads each shard once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cxrflow.base.config import TrainConfig, parse_bytes
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest
from cxrflow.training.epoch_plan import DEFAULT_STREAMS

READER_THREADS = 2
# What pyarrow holds beside the result while it reads a shard: the file's pages, and a buffer that grows by moving.
READ_COPIES = 3
BATCHES = 4  # one is gathered, one trained on, one is the source of padding, and the backend copies one


@dataclass(frozen=True, kw_only=True)
class FeedSize:
    """How a feed divides its memory.

    ``streams`` and ``shuffle_rows`` decide the order of the samples, so a resumed run takes them over. The other fields
    do not affect the order.
    """

    streams: int = DEFAULT_STREAMS
    shuffle_rows: int = 8192
    """Rows in the shuffle windows of all streams together."""
    held_bytes: int = 2**30
    """Most bytes of decoded pixels that a worker holds or reads at a time."""
    reader_threads: int = READER_THREADS
    keep_in_memory: bool = False
    """Whether shards stay in memory once they are read: all shards of train and val fit into ``held_bytes``."""


def choose_size(
    shard_rows: list[int], image_bytes: int, *, batch_size: int, workers: int, memory: int, shuffle_rows: int
) -> FeedSize:
    """The size for a new run with ``memory`` bytes for each worker.

    Prefers more streams, then more reader threads, then larger windows, up to ``shuffle_rows``. Raises UserError if the
    memory is too small to hold one shard of each stream while the next one is read.
    """
    largest = max(shard_rows)
    for streams in _stream_counts(workers):
        for threads in range(READER_THREADS, 0, -1):
            held_bytes = _held_bytes(shard_rows, image_bytes, batch_size, memory, threads)
            # Rows for each of this worker's streams, after room for the one shard that is read ahead.
            rows = (held_bytes // image_bytes - largest) // (streams // workers)
            if rows >= largest:
                keep = sum(shard_rows) * image_bytes <= held_bytes
                window = shuffle_rows // streams
                if not keep:
                    window = min(window, rows - 2 * largest + 2)  # the inverse of _window_rows
                return FeedSize(
                    streams=streams,
                    shuffle_rows=max(1, window) * streams,
                    held_bytes=held_bytes,
                    reader_threads=threads,
                    keep_in_memory=keep,
                )
    raise _too_small(memory, shard_rows, image_bytes, batch_size, rows=2 * largest)


def adapt_size(
    size: FeedSize, shard_rows: list[int], image_bytes: int, *, batch_size: int, workers: int, memory: int
) -> FeedSize:
    """The size for another number of workers, batch size or memory, with the same order of samples.

    Raises UserError if the memory is too small for the windows of that order.
    """
    streams = size.streams // math.gcd(size.streams, workers)  # that each worker reads
    rows = _window_rows(size, shard_rows) * streams + max(shard_rows)
    for threads in range(READER_THREADS, 0, -1):
        held_bytes = _held_bytes(shard_rows, image_bytes, batch_size, memory, threads)
        keep = sum(shard_rows) * image_bytes <= held_bytes
        if keep or rows * image_bytes <= held_bytes:
            return FeedSize(
                streams=size.streams,
                shuffle_rows=size.shuffle_rows,
                held_bytes=held_bytes,
                reader_threads=threads,
                keep_in_memory=keep,
            )
    raise _too_small(memory, shard_rows, image_bytes, batch_size, rows)


def feed_size(config: TrainConfig, manifest: Manifest, resumed: dict | None = None) -> FeedSize:
    """The size of a training's feeds, one for the train and one for the val split, which run one after the other.

    ``resumed``: ``streams`` and ``shuffle_rows`` of the resumed run. Raises UserError if the memory is too small.
    """
    shard_rows = [shard.rows for split in ("train", "val") for shard in manifest.of_split(split)]
    image_bytes = manifest.height * manifest.width
    memory = parse_bytes("--feed-memory", config.feed_memory)
    if resumed is None:
        return choose_size(
            shard_rows,
            image_bytes,
            batch_size=config.batch_size,
            workers=config.workers,
            memory=memory,
            shuffle_rows=config.shuffle_rows,
        )
    return adapt_size(
        FeedSize(**resumed),
        shard_rows,
        image_bytes,
        batch_size=config.batch_size,
        workers=config.workers,
        memory=memory,
    )


def _window_rows(size: FeedSize, shard_rows: list[int]) -> int:
    """The most rows in the shards of one stream's window.

    A window ends with the shard that fills it. The stream may use only a part of its first and last shard, but holds
    them whole.
    """
    window, largest = size.shuffle_rows // size.streams, max(shard_rows)
    return largest if window <= 1 else window + 2 * largest - 2


def _stream_counts(workers: int) -> Iterator[int]:
    """Numbers of streams to try, the default or the next larger multiple of ``workers`` first, then smaller ones.

    Where the default is a multiple of ``workers``, the others are divisors of it: many numbers of workers divide them.
    """
    if DEFAULT_STREAMS % workers:
        yield from range(workers * -(-DEFAULT_STREAMS // workers), 0, -workers)
    else:
        yield from (n for n in range(DEFAULT_STREAMS, 0, -1) if DEFAULT_STREAMS % n == 0 and n % workers == 0)


def _held_bytes(shard_rows: list[int], image_bytes: int, batch_size: int, memory: int, threads: int) -> int:
    """Bytes that are left for shards after reading and batches have taken theirs."""
    return memory - threads * READ_COPIES * max(shard_rows) * image_bytes - BATCHES * batch_size * image_bytes


def _too_small(memory: int, shard_rows: list[int], image_bytes: int, batch_size: int, rows: int) -> UserError:
    """``rows``: rows that the shards in memory have at least."""
    needed = (rows + READ_COPIES * max(shard_rows) + BATCHES * batch_size) * image_bytes
    return UserError(
        f"--feed-memory: expected at least {-(-needed // 2**20)}m for this table, whose largest shard has "
        f"{max(shard_rows)} images of {image_bytes / 2**20:.2f} MB, got {memory / 2**20:.0f}m; raise it, lower "
        "--batch-size, use more --workers, or ingest with fewer --shard-rows"
    )
