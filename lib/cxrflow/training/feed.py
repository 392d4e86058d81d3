"""The epoch plan's rows, streamed from Parquet by Petastorm and handed over as batches."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxrflow import storage
from cxrflow.manifest import Manifest, Shard
from cxrflow.shards import checksum
from cxrflow.training.plan import Block, EpochPlan

# Petastorm 0.13 reads through pyarrow's legacy dataset classes, which warn at every use; there is no other way to
# read with it. To be removed with the first Petastorm that uses pyarrow.dataset.
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
warnings.filterwarnings("ignore", category=FutureWarning, message=".*(ParquetDataset|legacy|_legacy).*")

from petastorm import make_batch_reader  # noqa: E402  (the filters above must come first)

COLUMNS = ["sample_id", "label", "pixels"]


@dataclass(frozen=True)
class Batch:
    """What a worker feeds at a step. B rows whatever the step, so that compiled graphs never change shape."""

    pixels: np.ndarray
    """uint8 (B, H, W, 1), 0 is black."""
    targets: np.ndarray
    """float32 (B, K), one-hot over the manifest's labels."""
    weights: np.ndarray
    """float32 (B,): 0 for rows that only fill up. The others are such that the mean over all workers and rows of
    weight times loss is the mean loss of the step's true samples."""
    sample_ids: np.ndarray
    """int64 (b,), b <= B: the true samples, which are the first b rows."""


@dataclass(frozen=True)
class Rows:
    """Some rows of the table, R of them."""

    sample_ids: np.ndarray  # int64 (R,)
    labels: np.ndarray  # int64 (R,), places in the manifest's labels
    pixels: np.ndarray  # uint8 (R, H * W)

    def take(self, which) -> Rows:
        return Rows(self.sample_ids[which], self.labels[which], self.pixels[which])


class Feed:
    """The batches of one split for one worker. Holds two blocks of the plan in memory: one that is being fed and
    one that Petastorm's threads are reading."""

    def __init__(self, table: str, manifest: Manifest, split: str, *, rank: int, workers: int, batch_size: int,
                 seed: int = 0, shuffle: bool = True, shuffle_rows: int = 8192, reader_threads: int = 2):
        self._table, self._manifest = table, manifest
        self._shards: list[Shard] = manifest.of_split(split)
        self._rank, self._threads = rank, reader_threads
        self._settings = {"shard_rows": [shard.rows for shard in self._shards], "workers": workers,
                          "batch_size": batch_size, "seed": seed, "shuffle": shuffle, "shuffle_rows": shuffle_rows}
        self._places = {label: place for place, label in enumerate(manifest.labels)}

    def plan(self, epoch: int = 0) -> EpochPlan:
        return EpochPlan(epoch=epoch, **self._settings)

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from a step on: as many on every worker.

        Raises RuntimeError with the shard's name where a shard cannot be read or is not what the manifest says.
        """
        plan = self.plan(epoch)
        size = plan.batch_size
        rows = self._rows(plan, skip=first_step * size)
        pending: list[Rows] = []
        fed = None
        for step in range(first_step, plan.steps):
            while sum(len(part.labels) for part in pending) < size and (part := next(rows, None)) is not None:
                pending.append(part)
            merged = _concatenate(pending) if len(pending) != 1 else pending[0]
            pending = [merged.take(slice(size, None))] if merged else []
            now = merged.take(slice(0, size)) if merged else None
            yield self._batch(plan, step, now, fed)
            fed = now

    def _batch(self, plan: EpochPlan, step: int, rows: Rows | None, fed: Rows | None) -> Batch:
        """A batch of ``rows``, fewer than B only at the last step. What is missing is filled from the step before,
        ``fed``, so that batch normalisation sees a batch of real images there too."""
        size, (height, width) = plan.batch_size, (self._manifest.height, self._manifest.width)
        true = len(rows.labels) if rows else 0
        filled = rows
        if true < size:
            # Fewer samples than workers, and this one never has any: a black image, with weight 0.
            black = Rows(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, height * width), np.uint8))
            known = _concatenate([part for part in (rows, fed) if part]) or black
            filled = known.take(np.arange(size) % len(known.labels))
        targets = np.zeros((size, len(self._manifest.labels)), np.float32)
        targets[np.arange(size), filled.labels] = 1
        weights = np.zeros(size, np.float32)
        weights[:true] = plan.workers * size / plan.step_samples(step)
        return Batch(filled.pixels.reshape(size, height, width, 1), targets, weights, filled.sample_ids[:true])

    def _rows(self, plan: EpochPlan, skip: int) -> Iterator[Rows]:
        """The worker's rows in feeding order, a batch's worth at a time, without the first ``skip``."""
        for block, rows in self._read(_skip(plan.blocks(self._rank), skip)):
            for start in range(0, len(block.order), plan.batch_size):
                yield rows.take(block.order[start:start + plan.batch_size])

    def _read(self, blocks: Iterator[Block]) -> Iterator[tuple[Block, Rows]]:
        """Each block with its rows; while a block is fed, Petastorm reads the next one."""
        held: dict[int, Rows] = {}
        block = next(blocks, None)
        reader = self._open(block, held)
        try:
            while block is not None:
                held |= self._finish(reader)
                rows = _concatenate([held[piece.shard].take(slice(piece.start, piece.stop)) for piece in block.slices])
                following = next(blocks, None)
                # A shard that the next block goes on with is kept instead of read again.
                kept = {piece.shard for piece in following.slices} if following else set()
                held = {shard: held[shard] for shard in kept & held.keys()}
                reader = self._open(following, held)
                yield block, rows
                block = following
        finally:
            if reader is not None:
                reader[1].stop()
                reader[1].join()

    def _open(self, block: Block | None, held: dict[int, Rows]):
        """(shards, Petastorm reader that is already reading them): those of the block that are not held."""
        shards = sorted({piece.shard for piece in block.slices} - held.keys()) if block else []
        if not shards:
            return None
        try:
            reader = make_batch_reader(
                [self._url(shard) for shard in shards], schema_fields=[f"^{column}$" for column in COLUMNS],
                reader_pool_type="thread", workers_count=self._threads, results_queue_size=len(shards),
                shuffle_row_groups=False, num_epochs=1)
            # Petastorm 0.13 hands its threads a few files at a time, and a reader that looks between two such
            # deliveries takes the pause for the end and loses the rest. So all are handed over before any is read.
            reader.ventilator._max_ventilation_queue_size = len(shards)
            return shards, reader
        except Exception as error:
            raise self._failure(shards, error) from error

    def _finish(self, reader) -> dict[int, Rows]:
        """The rows of all shards of a reader, by shard.

        Petastorm yields one row group a file, but with several threads in no order that can be relied on, and
        without its name. So the sample ids tell which shard it is, and that it holds what the manifest says.
        """
        if reader is None:
            return {}
        shards, groups = reader
        missing = {self._shards[shard].checksum: shard for shard in shards}
        found: dict[int, Rows] = {}
        try:
            while not groups.ventilator.completed():
                time.sleep(0.001)
            for group in groups:
                shard = missing.pop(checksum(group.sample_id), None)
                if shard is not None:
                    found[shard] = self._rows_of(shard, group)
        except RuntimeError:
            raise
        except Exception as error:  # pyarrow, fsspec and Petastorm raise unrelated types
            raise self._failure(list(missing.values()), error) from error
        finally:
            groups.stop()
            groups.join()
        if missing:
            raise self._failure(list(missing.values()), "its samples are not those that the manifest says")
        return found

    def _rows_of(self, shard: int, group) -> Rows:
        size = self._manifest.height * self._manifest.width
        if {len(pixels) for pixels in group.pixels} != {size}:
            raise self._failure([shard], f"expected images of {size} bytes, as the manifest says, and found others")
        pixels = np.frombuffer(b"".join(group.pixels), np.uint8).reshape(-1, size)
        labels = np.array([self._places[label] for label in group.label], np.int64)
        return Rows(np.asarray(group.sample_id, np.int64), labels, pixels)

    def _failure(self, shards: list[int], why: Exception | str) -> RuntimeError:
        names = ", ".join(self._url(shard) for shard in shards[:3]) + (" ..." if len(shards) > 3 else "")
        reason = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
        return RuntimeError(f"cannot train on {names}: {reason}. Was the table changed? Ingest it again")

    def _url(self, shard: int) -> str:
        return storage.for_petastorm(storage.join(self._table, self._shards[shard].path))


def _concatenate(parts: list[Rows]) -> Rows | None:
    if not parts:
        return None
    return Rows(*(np.concatenate([getattr(part, name) for part in parts])
                  for name in ("sample_ids", "labels", "pixels")))


def _skip(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """The blocks without the first rows; a block that is skipped whole is never read."""
    for block in blocks:
        if rows < len(block.order):
            yield Block(block.slices, block.order[rows:])
        rows = max(0, rows - len(block.order))
