"""The epoch plan's rows as batches: gathered from the shard store and padded to a fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from cxrflow.base.manifest import Manifest, Shard
from cxrflow.training.epoch_plan import EpochPlan, ReadSchedule
from cxrflow.training.feed_budget import FeedSize
from cxrflow.training.shard_source import Fetch
from cxrflow.training.shard_store import ShardColumns, ShardStore


@dataclass(frozen=True)
class Batch:
    """The rows that one worker feeds at one step.

    Every batch has B rows, the batch size, so that compiled graphs see one shape. At the last step of an epoch only
    the first b <= B are samples. The others are padding. K is the number of labels.
    """

    pixels: np.ndarray
    """uint8 (B, H, W, 1), 0 is black."""
    targets: np.ndarray
    """float32 (B, K); see ``training.targets``."""
    weights: np.ndarray
    """float32 (B,). Padding has weight 0. The weights of the samples are chosen such that the mean of weight times
    loss, over all workers and rows, is the mean loss of the step's samples."""
    sample_ids: np.ndarray
    """int64 (b,)."""
    shards: np.ndarray
    """int32 (b,): the shard of each sample, as an index into ``Feed.shards``."""


class Feed:
    """The batches of one split for one worker, within the memory of its ``size``."""

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
        reader: str | None = None,
        on_wait: Callable[[str], None] = lambda shard: None,
    ):
        """``fetch``: see ``shard_source.find_fetch``; without it, shards are read without a cache.

        ``reader``: a name from ``shard_reader.READERS``; without it, ``shard_reader.default_reader`` chooses.

        ``on_wait`` is for progress reports: the feed calls it with a shard's path before it waits for that shard.
        """
        size = size or FeedSize()
        self._manifest, self._rank, self._on_wait = manifest, rank, on_wait
        self._workers, self._batch_size, self._seed, self._shuffle, self._size = (
            workers,
            batch_size,
            seed,
            shuffle,
            size,
        )
        self.shards: list[Shard] = manifest.of_split(split)
        self._store = ShardStore(table, manifest, self.shards, size, fetch, reader)

    def plan(self, epoch: int = 0, first_sample: int = 0) -> EpochPlan:
        """The plan of an epoch from its sample ``first_sample`` on."""
        return EpochPlan(
            shard_rows=[shard.rows for shard in self.shards],
            workers=self._workers,
            batch_size=self._batch_size,
            seed=self._seed,
            epoch=epoch,
            shuffle=self._shuffle,
            shuffle_rows=self._size.shuffle_rows,
            streams=self._size.streams,
            first_sample=first_sample,
        )

    def epoch(self, epoch: int = 0, first_sample: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from its sample ``first_sample`` on: as many on every worker.

        Raises JobError with the shard's URL if a shard cannot be read or does not match the manifest. Reading stops and
        its threads end when the iterator ends. Call ``close`` on it to leave it early.
        """
        plan = self.plan(epoch, first_sample)
        schedule = plan.schedule(self._rank)
        previous = None
        with self._store.reading(schedule):
            for step in range(plan.steps):
                batch = self._gather(plan, schedule, step)
                _pad(batch, previous)
                yield batch
                previous = batch

    def _gather(self, plan: EpochPlan, schedule: ReadSchedule, step: int) -> Batch:
        """A step's samples, copied into a new batch. The rows of its padding are not set yet.

        Releases each shard as soon as its last row is copied, so that the store never holds more than the windows.
        """
        size, (height, width) = plan.batch_size, (self._manifest.height, self._manifest.width)
        start = min(step * size, len(schedule.rows))
        stop = min(start + size, len(schedule.rows))
        reads = schedule.reads[start:stop]
        pixels = np.empty((size, height * width), np.uint8)
        targets = np.empty((size, len(self._manifest.labels)), np.float32)
        sample_ids = np.empty(stop - start, np.int64)
        is_last = schedule.last[reads] == np.arange(start, stop)
        rows = schedule.rows[start:stop]
        for index, (read, row, last) in enumerate(zip(reads.tolist(), rows.tolist(), is_last.tolist(), strict=True)):
            shard = self._store.get(read)
            if shard is None:
                shard = self._wait_for(read, schedule)
            pixels[index], targets[index] = shard.pixels[row], shard.targets[row]
            sample_ids[index] = shard.sample_ids[row]
            if last:
                self._store.release(read)
        weights = np.zeros(size, np.float32)
        weights[: stop - start] = plan.workers * size / plan.step_samples(step)
        return Batch(pixels.reshape(size, height, width, 1), targets, weights, sample_ids, schedule.shards[reads])

    def _wait_for(self, read: int, schedule: ReadSchedule) -> ShardColumns:
        self._on_wait(self.shards[schedule.shards[read]].path)
        return self._store.load(read)


def _pad(batch: Batch, previous: Batch | None) -> None:
    """Fill the rows after the samples with rows of the previous batch or, if there is none, of this one.

    Batch normalisation then sees a batch of real images at the last step too.
    """
    samples = len(batch.sample_ids)
    missing = len(batch.weights) - samples
    for array, source in (
        (batch.pixels, None if previous is None else previous.pixels),
        (batch.targets, None if previous is None else previous.targets),
    ):
        if source is not None:
            array[samples:] = source[:missing]
        elif samples:
            array[samples:] = array[np.arange(missing) % samples]
        else:  # fewer samples than workers, and this worker never has one: black images
            array[:] = 0
