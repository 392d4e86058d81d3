"""Which worker feeds which rows in which order: a pure function of the shards, the seed and the epoch.

Letters: N samples in the split, W workers, B images a worker and step, G = W * B the global batch, V virtual
streams, F samples of the epoch that were fed before (0 but after a resume), T = ceil((N - F) / G) steps.

1. The shards are shuffled and laid end to end: a line of N rows.
2. The line is dealt to V streams, each a run of consecutive rows: N / V of them, one more for the first N mod V.
   Every other stream goes backwards, so that the two halves of a shard that a boundary cuts are fed at the same time.
3. In each stream the rows are shuffled within windows of a few shards, so that shuffling needs only a window in
   memory. The windows of all streams together mix about ``shuffle_rows`` samples from many shards. The streams'
   first windows have different lengths, so that the streams do not all start a new window at once.
4. Position p of the epoch's order, 0 <= p < N, is row p div V of stream p mod V.
5. Step t feeds positions F + t * G up to F + (t + 1) * G; worker w feeds those with p mod W = w.

None of the steps 1 to 4 depends on W, B or F: any number of workers with the same global batch sees the same batches,
and whoever goes on at position F feeds exactly what is missing. Where W divides V, a worker reads only V / W streams
of its own; where it does not, it reads V / gcd(V, W) streams and shares them with others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

DEFAULT_STREAMS = 24  # divided by 1, 2, 3, 4, 6, 8, 12 and 24 workers


@dataclass(frozen=True)
class ReadSchedule:
    """A worker's samples in feeding order, n of them, and the reads that bring them to memory, L of them."""

    shards: np.ndarray
    """int32 (L,): the shard of each read. A shard is read more than once only where its rows are fed far apart."""
    first: np.ndarray
    """int64 (L,), ascending: the place in the order, 0 to n - 1, that needs the read first."""
    last: np.ndarray
    """int64 (L,): the place that needs it last; its memory is free afterwards."""
    reads: np.ndarray
    """int32 (n,): the read that holds each sample."""
    rows: np.ndarray
    """int32 (n,): the sample's row in its shard."""

    def most_held(self, sizes: np.ndarray) -> int:
        """The largest sum of ``sizes`` (L,), one for each read, that is needed at once: a read is kept from its first
        need to its last, and those before it come first."""
        ended = np.argsort(self.last)
        free = np.concatenate([[0], np.cumsum(sizes[ended])])[np.searchsorted(self.last[ended], self.first)]
        return int((np.cumsum(sizes) - free).max(initial=0))


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
    """Rows in one window of all streams together; a window is made of whole shards and may be longer."""
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
        """int64 (n,): positions of the epoch's order that a worker feeds."""
        return np.arange(self.first_sample + (worker - self.first_sample) % self.workers, self.samples, self.workers)

    def streams_of(self, worker: int) -> range:
        """The streams that a worker reads."""
        common = math.gcd(self.streams, self.workers)
        return range(worker % common, self.streams, common)

    def order(self, worker: int) -> ReadSchedule:
        """What a worker feeds and reads."""
        positions = self.worker_positions(worker)
        offsets = np.zeros(self.streams, np.int64)
        parts, total, slices = [], 0, 0
        for stream in self.streams_of(worker):
            shards, rows, pieces = self._stream(stream)
            parts.append((shards, rows, pieces + slices))
            offsets[stream] = total
            total += len(rows)
            slices += int(pieces.max(initial=-1)) + 1
        shards, rows, pieces = (np.concatenate(part) for part in zip(*parts, strict=True))
        places = offsets[positions % self.streams] + positions // self.streams
        return _with_reads(shards[places], rows[places], pieces[places], slices)

    def _stream(self, stream: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, row in it, and number of the slice of each of the stream's samples in order; int32, equally long."""
        slices = self._slices(stream)
        if not slices:
            return (np.zeros(0, np.int32),) * 3
        lengths = [stop - start for _, start, stop in slices]
        shards = np.repeat(np.array([shard for shard, _, _ in slices], np.int32), lengths)
        rows = np.concatenate([np.arange(start, stop, dtype=np.int32) for _, start, stop in slices])
        pieces = np.repeat(np.arange(len(slices), dtype=np.int32), lengths)
        if self.shuffle:
            mixed = self._mix(stream, lengths)
            shards, rows, pieces = shards[mixed], rows[mixed], pieces[mixed]
        return shards, rows, pieces

    def _mix(self, stream: int, lengths: list[int]) -> np.ndarray:
        """int64: the rows of slices of these lengths, shuffled within windows of whole slices."""
        random = self._random(stream + 1)
        window = max(1, self.shuffle_rows // self.streams)
        target = window * (stream + 1) // self.streams  # of the first window; see step 3 above
        mixed, start, rows = [], 0, 0
        for number, length in enumerate(lengths):
            rows += length
            if rows >= target or number == len(lengths) - 1:
                mixed.append(start + random.permutation(rows))
                start, rows, target = start + rows, 0, window
        return np.concatenate(mixed)

    def _slices(self, stream: int) -> list[tuple[int, int, int]]:
        """The stream's run in the line of shuffled shards: (shard, first row, row after the last)."""
        order, ends = self._line
        short, longer = divmod(self.samples, self.streams)
        start = stream * short + min(stream, longer)
        stop = start + short + (stream < longer)
        if start == stop:
            return []
        found = []
        for place in range(np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left") + 1):
            shard = int(order[place])
            begin = int(ends[place]) - self.shard_rows[shard]
            found.append((shard, max(start - begin, 0), min(stop - begin, self.shard_rows[shard])))
        return found[::-1] if self.shuffle and stream % 2 else found

    @cached_property
    def _line(self) -> tuple[np.ndarray, np.ndarray]:
        """The shards in shuffled order, and where in the line each of them ends."""
        order = np.arange(len(self.shard_rows))
        if self.shuffle:
            order = self._random(0).permutation(len(self.shard_rows))
        return order, np.cumsum(np.asarray(self.shard_rows, np.int64)[order])

    def _random(self, key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, key))


def _with_reads(shards: np.ndarray, rows: np.ndarray, pieces: np.ndarray, slices: int) -> ReadSchedule:
    """The order, with one read for each slice, or for the slices of one shard that are needed at the same time."""
    places = np.arange(len(pieces))
    first, last, shard_of = np.full(slices, -1, np.int64), np.zeros(slices, np.int64), np.zeros(slices, np.int32)
    first[pieces[::-1]], last[pieces], shard_of[pieces] = places[::-1], places, shards
    used = np.flatnonzero(first >= 0)
    used = used[np.argsort(first[used])]
    read_of, latest, kept = np.zeros(slices, np.int32), {}, []
    for piece in used:
        known = latest.get(shard := int(shard_of[piece]))
        if known is not None and last[kept[known]] >= first[piece]:
            last[kept[known]] = max(last[kept[known]], last[piece])
            read_of[piece] = known
        else:
            latest[shard] = read_of[piece] = len(kept)
            kept.append(piece)
    kept = np.array(kept, np.int64)
    return ReadSchedule(shard_of[kept], first[kept], last[kept], read_of[pieces], rows)
