"""Which worker feeds which rows in which order: a pure function of the shards, the seed and the epoch.

Letters: N samples in the split, W workers, B images a worker and step, G = W * B the global batch, V virtual
streams, T = ceil(N / G) steps.

1. The shards are shuffled and laid end to end: a line of N rows.
2. The line is dealt to V streams, each a run of consecutive rows: N / V of them, one more for the first N mod V.
3. In each stream the rows are shuffled within windows of a fixed number of rows, so that shuffling needs only a
   window in memory. The windows of all streams together mix ``shuffle_rows`` samples from many shards.
4. Position p of the epoch's order, 0 <= p < N, is row p div V of stream p mod V.
5. Step t feeds positions t * G up to (t + 1) * G; worker w feeds those with p mod W = w.

V is a multiple of W, so a position's worker owns the whole of its stream, and a worker reads only its own streams.
None of the steps 1 to 4 depends on W or B as long as W divides DEFAULT_STREAMS: 1, 2 and 4 workers with the same
global batch see the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DEFAULT_STREAMS = 24  # divided by 1, 2, 3, 4, 6, 8, 12 and 24 workers


@dataclass(frozen=True)
class Slice:
    """Rows start (included) to stop (excluded) of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """What a worker holds in memory at a time: one window of each of its streams."""

    slices: list[Slice]
    """The rows to read, stream after stream; R of them in all."""
    order: np.ndarray
    """int64 (R,): the order to feed them in, as indices into the rows of ``slices`` laid end to end."""


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """One epoch of one split. Costs O(shards + N) time and memory for integers only, never for images."""

    shard_rows: list[int]
    """Rows of each shard."""
    workers: int
    batch_size: int
    """B: rows a worker feeds at each step."""
    seed: int
    epoch: int
    shuffle: bool = True
    """Without it, rows keep the order of the table within each stream."""
    shuffle_rows: int = 8192
    """Rows in one window of all streams together."""

    @property
    def samples(self) -> int:
        """N."""
        return sum(self.shard_rows)

    @property
    def streams(self) -> int:
        """V: the default, or the next multiple of a number of workers that does not divide it."""
        return DEFAULT_STREAMS if DEFAULT_STREAMS % self.workers == 0 else (
            self.workers * -(-DEFAULT_STREAMS // self.workers))

    @property
    def steps(self) -> int:
        """T: the same for every worker."""
        return -(-self.samples // (self.workers * self.batch_size))

    def step_samples(self, step: int) -> int:
        """Samples that all workers together feed at a step: G, or fewer at the last one."""
        batch = self.workers * self.batch_size
        return min(batch, self.samples - step * batch)

    def worker_samples(self, worker: int) -> int:
        """Samples that a worker feeds in the whole epoch."""
        return len(range(worker, self.samples, self.workers))

    def blocks(self, worker: int) -> Iterator[Block]:
        """The worker's blocks in feeding order. Their rows, laid end to end, are its samples of the epoch."""
        streams = list(range(worker, self.streams, self.workers))
        lines = [self._stream(stream) for stream in streams]
        window = max(1, self.shuffle_rows // self.streams)
        longest = -(-self.samples // self.streams)
        for number, start in enumerate(range(0, longest, window)):
            parts = [_cut(line, start, start + window) for line in lines]
            slices = [piece for part in parts for piece in part]
            if slices:
                yield Block(slices, self._interleave(streams, [_rows(part) for part in parts], number))

    def _interleave(self, streams: list[int], lengths: list[int], number: int) -> np.ndarray:
        """Feeding order of a block: row 0 of every stream, then row 1 of every stream, ..."""
        table = np.full((max(lengths), len(streams)), -1, np.int64)
        first = 0
        for column, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
            rows = np.arange(length)
            if self.shuffle:
                rows = self._random(stream, number).permutation(length)
            table[:length, column] = first + rows
            first += length
        flat = table.ravel()
        return flat[flat >= 0]

    def _stream(self, stream: int) -> list[Slice]:
        """The stream's run of rows in the line of shuffled shards."""
        order = np.arange(len(self.shard_rows))
        if self.shuffle:
            order = self._random().permutation(len(self.shard_rows))
        line = [Slice(int(shard), 0, self.shard_rows[shard]) for shard in order]
        short, longer = divmod(self.samples, self.streams)
        start = stream * short + min(stream, longer)
        return _cut(line, start, start + short + (stream < longer))

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, *key))


def _rows(slices: list[Slice]) -> int:
    return sum(piece.stop - piece.start for piece in slices)


def _cut(line: list[Slice], start: int, stop: int) -> list[Slice]:
    """Rows start to stop of slices laid end to end."""
    found = []
    position = 0
    for piece in line:
        rows = piece.stop - piece.start
        low, high = max(start - position, 0), min(stop - position, rows)
        if low < high:
            found.append(Slice(piece.shard, piece.start + low, piece.start + high))
        position += rows
    return found
