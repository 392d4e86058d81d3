"""The shard reader on Petastorm's ventilator and thread pool."""

from __future__ import annotations

from functools import partial

import pyarrow as pa

from cxrflow.training import petastorm_patches
from cxrflow.training.reader_interface import ByteBudget, ReadRequest, read_row_group


class PetastormReader:
    """A ``ShardReader``: Petastorm hands out the reads, runs them on its threads and returns results in order."""

    def __init__(self, request: ReadRequest):
        self._request = request
        self._budget = ByteBudget(request.budget)
        self._reader = petastorm_patches.open_reader(
            [partial(self._read, read) for read in range(len(request.urls))],
            request.columns,
            min(request.threads, len(request.urls)),
            self._budget.wait_until_closed,
        )

    def read_next(self) -> pa.Table:
        """See ``ShardReader``."""
        table, error = next(self._reader)
        if error is not None:
            raise error
        return table

    def release(self, read: int) -> None:
        """See ``ShardReader``."""
        self._budget.release(self._request.sizes[read])

    def close(self) -> None:
        """See ``ShardReader``."""
        self._budget.close()
        self._reader.stop()
        self._reader.join()

    def _read(self, read: int) -> tuple[pa.Table | None, Exception | None] | None:
        """Runs on Petastorm's threads. Returns (table, error), or None if closed before the read could begin."""
        request = self._request
        if not self._budget.acquire(read, request.sizes[read]):
            return None
        try:
            return read_row_group(request.urls[read], request.columns, request.fetch), None
        except Exception as error:  # Petastorm would stop the pool and lose which read failed; read_next raises it
            return None, error
