"""The shard reader on pyarrow and threads of its own. It needs no other package."""

from __future__ import annotations

import threading

import pyarrow as pa

from cxrflow.training.reader_interface import ByteBudget, ReadRequest, read_row_group


class ArrowReader:
    """A ``ShardReader``: each thread takes the next read as soon as the budget has room for it.

    The threads end by themselves after the last read. They are daemon threads, unlike those of
    ``concurrent.futures``: a process that fails while a reader is open ends instead of waiting for them.
    """

    def __init__(self, request: ReadRequest):
        self._request = request
        self._budget = ByteBudget(request.budget)
        self._unread = iter(range(len(request.urls)))
        self._done: dict[int, pa.Table | Exception] = {}
        self._next = 0
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"cxrflow-reader-{number}", daemon=True)
            for number in range(min(request.threads, len(request.urls)))
        ]
        for thread in self._threads:
            thread.start()

    def read_next(self) -> pa.Table:
        """See ``ShardReader``."""
        with self._changed:
            self._changed.wait_for(lambda: self._next in self._done)
            result = self._done.pop(self._next)
            self._next += 1
        if isinstance(result, Exception):
            raise result
        return result

    def release(self, read: int) -> None:
        """See ``ShardReader``."""
        self._budget.release(self._request.sizes[read])

    def close(self) -> None:
        """See ``ShardReader``."""
        self._budget.close()
        for thread in self._threads:
            thread.join()
        self._done.clear()

    def _run(self) -> None:
        """Runs on each thread: read until nothing is left or the reader is closed."""
        request = self._request
        while True:
            with self._changed:
                read = next(self._unread, None)
            if read is None or not self._budget.acquire(read, request.sizes[read]):
                return
            try:
                result = read_row_group(request.urls[read], request.columns, request.fetch)
            except Exception as error:  # read_next raises it in its turn
                result = error
            with self._changed:
                self._done[read] = result
                self._changed.notify()
            del result  # or this thread would hold the last shard beyond its release
