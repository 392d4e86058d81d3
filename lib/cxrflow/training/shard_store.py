"""The shards that a feed needs, fetched, decoded and held in memory within a byte budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.errors import JobError
from cxrflow.base.manifest import Manifest, Shard
from cxrflow.base.shard_files import checksum
from cxrflow.training.epoch_plan import ReadSchedule
from cxrflow.training.feed_budget import FeedSize
from cxrflow.training.reader_interface import ReadRequest, ShardReader
from cxrflow.training.shard_reader import find_reader
from cxrflow.training.shard_source import Fetch, plain_fetch
from cxrflow.training.targets import TARGETS

COLUMNS = ["sample_id", "label", "pixels"]


@dataclass(frozen=True)
class ShardColumns:
    """A decoded shard of R rows with H x W pixels and K labels."""

    sample_ids: np.ndarray
    """int64 (R,)."""
    targets: np.ndarray
    """float32 (R, K); see ``training.targets``."""
    pixels: np.ndarray
    """uint8 (R, H * W), a view of the memory that the shard was read into."""


class ShardStore:
    """The decoded shards of one split, for one read schedule at a time.

    Inside ``reading(schedule)``, the caller loads the schedule's reads in order and releases each after its last use.
    A reader reads ahead. The shards that are loaded or read ahead stay within ``size.held_bytes`` together.
    With ``size.keep_in_memory``, shards stay loaded for all later schedules and are read once.
    """

    def __init__(
        self,
        table: str,
        manifest: Manifest,
        shards: list[Shard],
        size: FeedSize,
        fetch: Fetch | None = None,
        reader: str | None = None,
    ):
        """``shards``: the split's shards, which schedules name by index. ``fetch``: see ``shard_source``.

        ``reader``: see ``shard_reader.find_reader``.
        """
        self._table, self._manifest, self._shards, self._size = table, manifest, shards, size
        self._fetch = fetch or plain_fetch(table)
        self._open_reader = find_reader(reader)
        self._image_bytes = manifest.height * manifest.width
        # Loaded shards by key: the shard's index where shards stay in memory, otherwise the read's number, since a
        # schedule may read a shard again after its release.
        self._loaded: dict[int, ShardColumns] = {}
        self._keys: list[int] = []
        self._pending: Iterator[tuple[int, int]] = iter(())
        self._reader: ShardReader | None = None
        self._busy = False

    @contextmanager
    def reading(self, schedule: ReadSchedule) -> Iterator[None]:
        """Read the schedule's shards ahead within the block. The reader's threads have ended after it.

        Raises ValueError if the schedule needs more than ``size.held_bytes`` at once: it would wait forever.
        """
        if self._busy:
            raise RuntimeError("expected the feed's previous epoch to be finished or closed before the next one starts")
        shards = schedule.shards.tolist()
        self._keys = shards if self._size.keep_in_memory else list(range(len(shards)))
        pending = {
            key: shard for key, shard in zip(self._keys, shards, strict=True) if key not in self._loaded
        }  # in order of first use, each key once
        self._pending = iter(pending.items())
        reads = list(pending.values())
        self._check_budget(schedule, reads)
        self._busy = True
        try:
            self._reader = self._start_reader(reads) if reads else None
            yield
        finally:
            if self._reader is not None:
                self._reader.close()
            self._reader, self._busy = None, False
            if not self._size.keep_in_memory:
                self._loaded.clear()

    def get(self, read: int) -> ShardColumns | None:
        """The columns of a read, or None if it is not loaded yet."""
        return self._loaded.get(self._keys[read])

    def load(self, read: int) -> ShardColumns:
        """Wait until a read is loaded and return its columns. All earlier reads must be loaded already.

        Raises JobError with the shard's URL if it cannot be read or does not match the manifest.
        """
        key, shard = next(self._pending)
        if key != self._keys[read] or self._reader is None:
            raise RuntimeError(f"expected reads in the order of the schedule, got read {read}")
        try:
            columns = decode_shard(self._reader.read_next(), self._shards[shard], self._manifest)
        except Exception as error:
            raise self._failure(shard, error) from error
        self._loaded[key] = columns
        return columns

    def release(self, read: int) -> None:
        """Drop a read's columns after their last use in the schedule, so that the reader can read ahead."""
        if self._reader is not None and not self._size.keep_in_memory:
            del self._loaded[self._keys[read]]
            self._reader.release(read)

    def _bytes(self, shard: int) -> int:
        return self._shards[shard].rows * self._image_bytes

    def _check_budget(self, schedule: ReadSchedule, reads: list[int]) -> None:
        sizes = np.array([self._bytes(shard) for shard in reads], np.int64)
        needed = int(sizes.sum()) if self._size.keep_in_memory else schedule.most_held(sizes)
        if needed > self._size.held_bytes:
            raise ValueError(
                f"held_bytes: expected at least {needed}, which this epoch's shuffle windows need at once, "
                f"got {self._size.held_bytes}; choose the size with feed_budget.choose_size"
            )

    def _start_reader(self, reads: list[int]) -> ShardReader:
        urls = [storage.join(self._table, self._shards[shard].path) for shard in reads]
        return self._open_reader(
            ReadRequest(
                urls=urls,
                sizes=[self._bytes(shard) for shard in reads],
                columns=COLUMNS,
                budget=self._size.held_bytes,
                threads=self._size.reader_threads,
                fetch=self._fetch,
            )
        )

    def _failure(self, shard: int, error: Exception) -> JobError:
        url = storage.join(self._table, self._shards[shard].path)
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        return JobError(f"cannot train on {url}: {reason}; if the table was changed, ingest it again")


def decode_shard(table: pa.Table, shard: Shard, manifest: Manifest) -> ShardColumns:
    """A shard's columns as arrays, without copying the pixels. Raises ValueError if they differ from the manifest."""
    # combine_chunks copies even a single chunk, and a row group is a single chunk.
    sample_ids, labels, pixels = (
        column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in map(table.column, COLUMNS)
    )
    ids = sample_ids.to_numpy()
    if len(ids) != shard.rows or checksum(ids) != shard.checksum:
        raise ValueError(
            f"expected {shard.rows} samples with checksum {shard.checksum}, as the manifest says, "
            f"got {len(ids)} with checksum {checksum(ids)}"
        )
    return ShardColumns(ids, TARGETS[manifest.task](labels, manifest.labels), _image_rows(pixels, manifest))


def _image_rows(pixels: pa.Array, manifest: Manifest) -> np.ndarray:
    """uint8 (R, H * W): a binary column's images as a view of its buffer."""
    if not pa.types.is_binary(pixels.type):
        raise ValueError(f"expected pixels of type binary, got {pixels.type}")
    image_bytes = manifest.height * manifest.width
    offsets = np.frombuffer(pixels.buffers()[1], np.int32)[pixels.offset : pixels.offset + len(pixels) + 1]
    lengths = np.diff(offsets)
    if pixels.null_count or (lengths != image_bytes).any():
        found = "null" if pixels.null_count else f"{lengths[lengths != image_bytes][0]} bytes"
        raise ValueError(f"expected images of {image_bytes} bytes, as the manifest says, got one of {found}")
    return np.frombuffer(pixels.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(-1, image_bytes)
