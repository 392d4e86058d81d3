"""The epoch plan's rows, streamed from Parquet by Petastorm and handed over as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.errors import JobError
from cxrflow.base.manifest import Manifest, Shard
from cxrflow.base.shard_files import checksum
from cxrflow.training.epoch_plan import EpochPlan, ReadSchedule
from cxrflow.training.feed_budget import FeedSize
from cxrflow.training.shard_reader import ShardError, ShardReader
from cxrflow.training.shard_source import Fetch, plain_fetch
from cxrflow.training.targets import find_targets

COLUMNS = ["sample_id", "label", "pixels"]


@dataclass(frozen=True)
class Batch:
    """What a worker feeds at a step. B rows whatever the step, so that compiled graphs never change shape."""

    pixels: np.ndarray
    """uint8 (B, H, W, 1), 0 is black."""
    targets: np.ndarray
    """float32 (B, K), over the manifest's labels; see ``training.targets``."""
    weights: np.ndarray
    """float32 (B,): 0 for rows that only fill up. The others are such that the mean over all workers and rows of
    weight times loss is the mean loss of the step's true samples."""
    sample_ids: np.ndarray
    """int64 (b,), b <= B: the true samples, which are the first b rows."""
    shards: np.ndarray
    """int32 (b,): the shard that each true sample came from, as its place in ``Feed.shards``."""


@dataclass(frozen=True)
class Rows:
    """Some rows of the table, R of them."""

    sample_ids: np.ndarray  # int64 (R,)
    targets: np.ndarray  # float32 (R, K)
    pixels: np.ndarray  # uint8 (R, H * W)


class Feed:
    """The batches of one split for one worker, within the memory that its ``size`` allows."""

    def __init__(
        self,
        table: str,
        manifest: Manifest,
        split: str,
        *,
        rank: int,
        workers: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        size: FeedSize | None = None,
        fetch: Fetch | None = None,
        on_wait: Callable[[str], None] = lambda shard: None,
    ):
        """``fetch``: how shards are fetched, as ``source.find_fetch`` finds it; if not given, without a cache.
        ``on_wait(shard)`` is called with a shard's path before it is waited for."""
        size = size or FeedSize()
        self._fetch = fetch or plain_fetch(table)
        self._table, self._manifest, self._rank, self._size, self._on_wait = table, manifest, rank, size, on_wait
        self.shards: list[Shard] = manifest.of_split(split)
        self._settings = {
            "shard_rows": [shard.rows for shard in self.shards],
            "workers": workers,
            "batch_size": batch_size,
            "seed": seed,
            "shuffle": shuffle,
            "shuffle_rows": size.shuffle_rows,
            "streams": size.streams,
        }
        self._kept: dict[int, Rows] = {}
        self._image_bytes = manifest.height * manifest.width
        self._targets = find_targets(manifest)

    def plan(self, epoch: int = 0, first_sample: int = 0) -> EpochPlan:
        return EpochPlan(epoch=epoch, first_sample=first_sample, **self._settings)

    def epoch(self, epoch: int = 0, first_sample: int = 0) -> Iterator[Batch]:
        """The batches of an epoch without the first samples of its order: as many on every worker.

        Raises JobError with the shard's name where a shard cannot be read or is not what the manifest says. Its
        threads end with the iterator; ``close`` it where it is not used up.
        """
        plan = self.plan(epoch, first_sample)
        order = plan.order(self._rank)
        reads = self._reads(order)
        fed = None
        try:
            with closing(self._reader(order, reads)) as reader:
                for step in range(plan.steps):
                    start = step * plan.batch_size
                    rows, shards = self._gather(order, start, min(start + plan.batch_size, len(order.rows)), reader)
                    batch, fed = self._batch(plan, step, rows, shards, fed)
                    yield batch
        except ShardError as error:
            raise self._failure(reads[error.read], error.__cause__) from error.__cause__

    def _reads(self, order: ReadSchedule) -> np.ndarray:
        """The shards that are read, in turn: where they are kept, each once, and not those that are here."""
        if not self._size.keep:
            return order.shards
        shards, first = np.unique(order.shards, return_index=True)
        return order.shards[np.sort(first[[shard not in self._kept for shard in shards.tolist()]])]

    def _reader(self, order: ReadSchedule, reads: np.ndarray) -> ShardReader | _Keeper:
        reader = self._open(order, [self.shards[shard] for shard in reads]) if len(reads) else None
        return _Keeper(reader, self._kept, order.shards, reads) if self._size.keep or reader is None else reader

    def _open(self, order: ReadSchedule, shards: list[Shard]) -> ShardReader:
        sizes = np.array([shard.rows * self._image_bytes for shard in shards])
        needed = sizes.sum() if self._size.keep else order.most_held(sizes)
        if needed > self._size.held_bytes:  # it would wait for ever for room
            raise ValueError(
                f"held_bytes: expected at least {needed}, which the windows of these shards need at once, "
                f"got {self._size.held_bytes}; size a feed with budget.size_feed"
            )
        return ShardReader(
            [storage.for_petastorm(storage.join(self._table, shard.path)) for shard in shards],
            sizes.tolist(),
            COLUMNS,
            lambda read, table: self._decode(shards[read], table),
            self._size.held_bytes,
            self._size.reader_threads,
            self._fetch,
            lambda read: self._on_wait(shards[read].path),
        )

    def _gather(self, order: ReadSchedule, start: int, stop: int, reader: ShardReader) -> tuple[Rows, np.ndarray]:
        """Rows and shards of places start to stop of the order, in memory of their own. Shards are released as soon
        as the last of their rows is copied, so that what is held never exceeds the plan's windows."""
        reads = order.reads[start:stop]
        count = max(0, stop - start)
        size = self._settings["batch_size"]  # room for the rows that fill up a short batch
        targets = np.empty((size, len(self._manifest.labels)), np.float32)
        rows = Rows(np.empty(count, np.int64), targets, np.empty((size, self._image_bytes), np.uint8))
        lasts = (order.last[reads] == np.arange(start, start + count)).tolist()
        for place, (read, row, last) in enumerate(
            zip(reads.tolist(), order.rows[start:stop].tolist(), lasts, strict=True)
        ):
            shard = reader.take(read)
            rows.pixels[place] = shard.pixels[row]
            rows.sample_ids[place], rows.targets[place] = shard.sample_ids[row], shard.targets[row]
            if last:
                reader.release(read)
        return rows, order.shards[reads]

    def _batch(
        self, plan: EpochPlan, step: int, rows: Rows, shards: np.ndarray, fed: Rows | None
    ) -> tuple[Batch, Rows]:
        """A batch of ``rows``, fewer than B only at the last step, and its B rows. What is missing is filled from the
        step before, ``fed``, so that batch normalisation sees a batch of real images there too."""
        size, (height, width) = plan.batch_size, (self._manifest.height, self._manifest.width)
        true = len(rows.sample_ids)
        self._fill(rows.pixels, true, fed.pixels if fed else None)
        self._fill(rows.targets, true, fed.targets if fed else None)
        weights = np.zeros(size, np.float32)
        weights[:true] = plan.workers * size / plan.step_samples(step)
        return Batch(rows.pixels.reshape(size, height, width, 1), rows.targets, weights, rows.sample_ids, shards), rows

    @staticmethod
    def _fill(array: np.ndarray, true: int, before: np.ndarray | None) -> None:
        """Fill the array from row ``true`` on, with rows of the step before or, where there is none, its own."""
        missing = len(array) - true
        if before is not None:
            array[true:] = before[:missing]
        elif true == 0:  # fewer samples than workers, and this one never has any: black images, with weight 0
            array[:] = 0
        else:
            array[true:] = array[np.arange(missing) % true]

    def _decode(self, shard: Shard, table: pa.Table) -> Rows:
        """The table's columns as arrays, without a copy of the pixels, checked against the manifest."""
        # Of one chunk, as a row group is, combine_chunks would make a copy.
        sample_ids, labels, pixels = (
            column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            for column in map(table.column, COLUMNS)
        )
        ids = sample_ids.to_numpy()
        if len(ids) != shard.rows or checksum(ids) != shard.checksum:
            raise ValueError("its samples are not those that the manifest says")
        if not pa.types.is_binary(pixels.type):
            raise ValueError(f"expected pixels as binary, found {pixels.type}")
        offsets = np.frombuffer(pixels.buffers()[1], np.int32)[pixels.offset : pixels.offset + len(pixels) + 1]
        if pixels.null_count or (np.diff(offsets) != self._image_bytes).any():
            raise ValueError(f"expected images of {self._image_bytes} bytes, as the manifest says, and found others")
        image = np.frombuffer(pixels.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(-1, self._image_bytes)
        return Rows(ids, self._targets(labels), image)

    def _failure(self, shard: int, why: BaseException) -> JobError:
        url = storage.join(self._table, self.shards[shard].path)
        reason = str(why) if type(why) is ValueError else f"{type(why).__name__}: {why}"
        return JobError(f"cannot train on {url}: {reason}. Was the table changed? Ingest it again")


class _Keeper:
    """A ``ShardReader`` for what is not here yet, that keeps what it reads."""

    def __init__(self, reader: ShardReader | None, kept: dict[int, Rows], shards: np.ndarray, reads: np.ndarray):
        self._reader, self._kept, self._shards = reader, kept, shards.tolist()
        self._numbers = {shard: number for number, shard in enumerate(reads.tolist())}

    def take(self, read: int) -> Rows:
        shard = self._shards[read]
        if shard not in self._kept:
            self._kept[shard] = self._reader.take(self._numbers[shard])
        return self._kept[shard]

    def release(self, read: int) -> None:
        pass

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
