"""The interface of shard readers, and what their implementations share."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base.generations import read_from_any_generation
from cxrflow.training.shard_source import Fetch


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """What a reader reads. The lists have one item per read, in reading order; read n is item n."""

    urls: list[str]
    """A shard may occur more than once."""
    sizes: list[int]
    """Bytes that a read counts against the budget."""
    columns: list[str]
    budget: int
    """Most bytes that may be read but not yet released. No single size exceeds it."""
    threads: int
    fetch: Fetch | None = None
    """Returns a shard's content; None if the URLs are paths of local files."""


class ShardReader(Protocol):
    """Reads shards in order, ahead of their use. Starts when it is constructed.

    A read takes its bytes from the budget before it begins and returns them when it is released. Reads begin in order,
    so a later read never takes the bytes that an earlier one waits for. The caller releases enough reads for the next
    one to fit; otherwise ``read_next`` waits forever.
    """

    def read_next(self) -> pa.Table:
        """Wait for the next read in order and return its columns. Raises what reading it raised."""

    def release(self, read: int) -> None:
        """Return the bytes of a read to the budget, after the caller has dropped its table."""

    def close(self) -> None:
        """Stop reading. Returns when all threads of the reader have ended."""


class ByteBudget:
    """Lets reads begin in order, each as soon as its bytes are free. Shared by a reader's threads and its caller."""

    def __init__(self, size: int):
        self._free, self._next, self._closed = size, 0, False
        self._changed = threading.Condition()

    def acquire(self, read: int, size: int) -> bool:
        """Wait until all earlier reads have begun and ``size`` bytes are free. Returns False if closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._next == read and self._free >= size))
            if self._closed:
                return False
            self._free -= size
            self._next += 1
            self._changed.notify_all()
            return True

    def release(self, size: int) -> None:
        """Return ``size`` bytes."""
        with self._changed:
            self._free += size
            self._changed.notify_all()

    def close(self) -> None:
        """Make every waiting or later ``acquire`` return False."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_closed(self) -> None:
        """Block until ``close`` is called."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed)


def read_row_group(url: str, columns: list[str], fetch: Fetch | None = None) -> pa.Table:
    """Columns of a shard's only row group.

    Raises ValueError if a column is missing or the file has another number of row groups, and OSError or
    pyarrow.ArrowException if it cannot be read.
    """
    # Given a name instead of a Python file object, Arrow reads without holding the interpreter's lock.
    with (
        pq.ParquetFile(pa.BufferReader(fetch(url))) if fetch else read_from_any_generation(pq.ParquetFile, url) as file
    ):
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"expected the columns {', '.join(columns)}, got none named {', '.join(sorted(missing))}")
        if file.num_row_groups != 1:
            raise ValueError(f"expected one row group, got {file.num_row_groups}")
        return file.read_row_group(0, columns=columns, use_threads=False)
