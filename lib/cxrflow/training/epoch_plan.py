"""Which worker feeds which rows in which order: a pure function of the shards, the seed and the epoch.

Letters: N samples in the split, W workers, B rows of a worker's batch, G = W * B rows of the global batch, V streams,
F samples of the epoch that were fed before (0 unless a run resumes), T = ceil((N - F) / G) steps.

1. The shards are shuffled and concatenated into one sequence of N rows.
2. The sequence is cut into V streams of consecutive rows: N / V rows each, and one more for the first N mod V.
   Odd streams go through their rows backwards. So if a boundary cuts a shard, both halves are fed at the same time.
3. Each stream is shuffled within windows of a few shards, so that only one window per stream is in memory. The windows
   of all streams together mix about ``shuffle_rows`` samples from many shards. The first windows of the streams have
   different lengths, so that the streams do not all begin a new window at once.
4. Position p of the epoch's order, 0 <= p < N, is row p div V of stream p mod V.
5. Step t feeds positions F + t * G up to F + (t + 1) * G. Worker w feeds those with p mod W = w.

Steps 1 to 4 do not depend on W, B or F. So the global batches are the same for any number of workers with the same G,
and a run that resumes at position F feeds exactly the samples that are missing. If W divides V, each worker reads V / W
streams that no other worker reads. Otherwise it reads V / gcd(V, W) streams and shares them with others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

DEFAULT_STREAMS = 24  # a multiple of 1, 2, 3, 4, 6, 8, 12 and 24 workers


@dataclass(frozen=True)
class ReadSchedule:
    """The n samples of a worker in feeding order, and the L reads that bring their shards to memory."""

    shards: np.ndarray
    """int32 (L,): the shard of each read. A shard is read again only if its rows are fed far apart."""
    first: np.ndarray
    """int64 (L,), ascending: the sample, 0 to n - 1, that needs the read first."""
    last: np.ndarray
    """int64 (L,): the sample that needs the read last. Its memory is free afterwards."""
    reads: np.ndarray
    """int32 (n,): the read that contains each sample."""
    rows: np.ndarray
    """int32 (n,): each sample's row in its shard."""

    def most_held(self, sizes: np.ndarray) -> int:
        """The largest sum of the reads' ``sizes`` (L,) that is in memory at once.

        A read is in memory from its first to its last sample. Reads take place in order.
        """
        by_last = np.argsort(self.last)
        freed = np.concatenate([[0], np.cumsum(sizes[by_last])])
        freed_before = freed[np.searchsorted(self.last[by_last], self.first)]
        return int((np.cumsum(sizes) - freed_before).max(initial=0))


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """One epoch of one split. Takes O(shards + N) time and memory, for integers only."""

    shard_rows: list[int]
    """Rows of each shard."""
    workers: int
    batch_size: int
    """B: rows that a worker feeds at each step."""
    seed: int
    epoch: int
    shuffle: bool = True
    """If False, the rows of each stream keep the order of the table."""
    shuffle_rows: int = 8192
    """Rows in the windows of all streams together. Windows consist of whole slices, so they may be longer than this."""
    streams: int = DEFAULT_STREAMS
    """V."""
    first_sample: int = 0
    """F: how many samples of the epoch's order were fed before."""

    @property
    def samples(self) -> int:
        """N."""
        return sum(self.shard_rows)

    @property
    def steps(self) -> int:
        """T: the same for every worker."""
        return -(-(self.samples - self.first_sample) // (self.workers * self.batch_size))

    def fed_before(self, step: int) -> int:
        """Samples of the epoch that all workers together have fed when a step begins."""
        return min(self.samples, self.first_sample + step * self.workers * self.batch_size)

    def step_samples(self, step: int) -> int:
        """Samples that all workers together feed at a step: G, or fewer at the last one."""
        return self.fed_before(step + 1) - self.fed_before(step)

    def worker_positions(self, worker: int) -> np.ndarray:
        """int64 (n,): the positions of the epoch's order that a worker feeds."""
        return np.arange(self.first_sample + (worker - self.first_sample) % self.workers, self.samples, self.workers)

    def streams_of(self, worker: int) -> range:
        """The streams that a worker reads."""
        common = math.gcd(self.streams, self.workers)
        return range(worker % common, self.streams, common)

    def schedule(self, worker: int) -> ReadSchedule:
        """What a worker feeds, and the reads for it."""
        positions = self.worker_positions(worker)
        offsets = np.zeros(self.streams, np.int64)
        columns, total, slice_count = [], 0, 0
        for stream in self.streams_of(worker):
            shards, rows, slices = self._stream(stream)
            columns.append((shards, rows, slices + slice_count))
            offsets[stream] = total
            total += len(rows)
            slice_count += int(slices.max(initial=-1)) + 1
        shards, rows, slices = (np.concatenate(column) for column in zip(*columns, strict=True))
        samples = offsets[positions % self.streams] + positions // self.streams
        return _schedule_reads(shards[samples], rows[samples], slices[samples], slice_count)

    def _stream(self, stream: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(shard, row in the shard, number of the slice), each int32, of a stream's samples in order."""
        slices = self._slices(stream)
        if not slices:
            return (np.zeros(0, np.int32),) * 3
        lengths = [stop - start for _, start, stop in slices]
        shards = np.repeat(np.array([shard for shard, _, _ in slices], np.int32), lengths)
        rows = np.concatenate([np.arange(start, stop, dtype=np.int32) for _, start, stop in slices])
        numbers = np.repeat(np.arange(len(slices), dtype=np.int32), lengths)
        if self.shuffle:
            shuffled = self._shuffle_windows(stream, lengths)
            shards, rows, numbers = shards[shuffled], rows[shuffled], numbers[shuffled]
        return shards, rows, numbers

    def _shuffle_windows(self, stream: int, lengths: list[int]) -> np.ndarray:
        """int64: the indices of a stream's rows, shuffled within windows of whole slices with these lengths."""
        random = self._random(stream + 1)
        window = max(1, self.shuffle_rows // self.streams)
        target = window * (stream + 1) // self.streams  # the first windows differ in length; see step 3 above
        shuffled, start, rows = [], 0, 0
        for number, length in enumerate(lengths):
            rows += length
            if rows >= target or number == len(lengths) - 1:
                shuffled.append(start + random.permutation(rows))
                start, rows, target = start + rows, 0, window
        return np.concatenate(shuffled)

    def _slices(self, stream: int) -> list[tuple[int, int, int]]:
        """A stream's consecutive rows by shard: (shard, first row, row after the last)."""
        order, ends = self._sequence
        short, longer = divmod(self.samples, self.streams)
        start = stream * short + min(stream, longer)
        stop = start + short + (stream < longer)
        if start == stop:
            return []
        slices = []
        for index in range(np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left") + 1):
            shard = int(order[index])
            begin = int(ends[index]) - self.shard_rows[shard]
            slices.append((shard, max(start - begin, 0), min(stop - begin, self.shard_rows[shard])))
        return slices[::-1] if self.shuffle and stream % 2 else slices

    @cached_property
    def _sequence(self) -> tuple[np.ndarray, np.ndarray]:
        """The shards in shuffled order, and the position after each one's last row in the sequence of all rows."""
        order = np.arange(len(self.shard_rows))
        if self.shuffle:
            order = self._random(0).permutation(len(self.shard_rows))
        return order, np.cumsum(np.asarray(self.shard_rows, np.int64)[order])

    def _random(self, key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, key))


def _schedule_reads(shards: np.ndarray, rows: np.ndarray, slices: np.ndarray, slice_count: int) -> ReadSchedule:
    """The schedule of samples in feeding order, given as (shard, row, number of the slice).

    Each slice gets a read. Slices of the same shard share one if they are needed at the same time.
    """
    samples = np.arange(len(slices))
    first, last = np.full(slice_count, -1, np.int64), np.zeros(slice_count, np.int64)
    shard_of = np.zeros(slice_count, np.int32)
    first[slices[::-1]], last[slices], shard_of[slices] = samples[::-1], samples, shards
    used = np.flatnonzero(first >= 0)
    used = used[np.argsort(first[used])]
    read_of = np.zeros(slice_count, np.int32)  # the read of each slice
    read_slices: list[int] = []  # the slice that each read begins with; its last sample becomes the read's
    latest_read: dict[int, int] = {}  # of each shard
    for number in used.tolist():
        shard = int(shard_of[number])
        read = latest_read.get(shard)
        if read is not None and last[read_slices[read]] >= first[number]:
            last[read_slices[read]] = max(last[read_slices[read]], last[number])
        else:
            read = latest_read[shard] = len(read_slices)
            read_slices.append(number)
        read_of[number] = read
    begins = np.array(read_slices, np.int64)
    return ReadSchedule(shard_of[begins], first[begins], last[begins], read_of[slices], rows)
