"""Contestant "pyarrow", the yardstick: two threads read row groups to NumPy in the order of the table.

It does not shuffle, and its batches are views of the row groups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from contestant import PROCESSES
from feeding import BATCH_ROWS, Batches, Epoch, feeds, read_shard, serve, shards

AHEAD = 2 * PROCESSES
"""Row groups that are read or waiting at a time. Holding all of them would cost time for new memory."""


def open_feed(table: str, shuffle_rows: int) -> Epoch:
    def epoch(number: int) -> Batches:
        with ThreadPoolExecutor(PROCESSES) as pool:
            for pixels, labels in read_ahead(pool, shards(table)):
                for start in range(0, len(labels), BATCH_ROWS):
                    yield pixels[start : start + BATCH_ROWS], labels[start : start + BATCH_ROWS]

    return epoch


def read_ahead(pool: ThreadPoolExecutor, paths: list[str]) -> Iterator[tuple]:
    waiting: deque = deque()
    for path in paths:
        waiting.append(pool.submit(read_shard, path))
        if len(waiting) == AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


if __name__ == "__main__":
    serve(feeds(open_feed))
