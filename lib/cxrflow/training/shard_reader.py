"""Whole shards in the order that is asked for, read ahead by Petastorm's threads within a bound of memory.

Petastorm's own worker copies each row group three times (take, pandas, bytes objects), and its reader opens every file
for its footer before the first row comes. Here its reader, pool and ventilator are used with a worker that hands the
Arrow table on as it was read, from files that are opened once, when they are their turn. Written for Petastorm 0.13.1.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

# Petastorm 0.13 uses pyarrow's legacy file system and dataset classes, which warn at every use; there is no other way
# to read with it. To be removed with the first Petastorm that uses pyarrow.dataset.
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
warnings.filterwarnings("ignore", category=FutureWarning, message=".*(ParquetDataset|legacy|_legacy|pyarrow.localfs).*")

from petastorm.arrow_reader_worker import ArrowReaderWorker
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.reader import Reader
from petastorm.workers_pool.thread_pool import ThreadPool
from petastorm.workers_pool.ventilator import ConcurrentVentilator

from cxrflow.training.shard_source import Fetch, first_file


class ShardError(Exception):
    """A shard that cannot be read: ``read`` is its number in the order of reading; the cause says why."""

    def __init__(self, read: int):
        super().__init__(f"read {read}")
        self.read = read


class ShardReader:
    """``take(n)`` gives what ``decode(n, table)`` made of file n; files are read in order 0, 1, 2, ...

    A file's ``sizes[n]`` bytes count against ``held_bytes`` from before it is read until ``release(n)``. Whoever takes
    file n must be able to without files after n, and those up to n that are not released must fit. With ``fetch``, a file
    is not opened but fetched. ``on_wait(n)`` is called before file n is waited for.
    """

    def __init__(
        self,
        urls: list[str],
        sizes: list[int],
        columns: list[str],
        decode: Callable[[int, pa.Table], object],
        held_bytes: int,
        threads: int,
        fetch: Fetch | None = None,
        on_wait: Callable[[int], None] = lambda read: None,
    ):
        self._sizes, self._here, self._on_wait = sizes, {}, on_wait
        self._gate = _Gate(held_bytes)
        try:
            worker = _worker(urls, sizes, columns, decode, self._gate, fetch)
            with first_file(urls[0], columns, fetch) as first:
                self._reader = _open(first, len(urls), columns, worker, min(threads, len(urls)))
        except Exception as error:  # only the first file is looked at before the threads start
            raise ShardError(0) from error
        # All files are handed to the threads at once, and Petastorm takes a pause between two of them for the end.
        while not self._reader.ventilator.completed():
            time.sleep(0.0005)

    def take(self, read: int):
        """What became of file ``read``; waits until it is there. Raises ShardError where it could not be read."""
        while read not in self._here:
            self._on_wait(read)
            number, result = next(self._reader)
            if isinstance(result, Exception):
                raise ShardError(number) from result
            self._here[number] = result
        return self._here[read]

    def release(self, read: int) -> None:
        del self._here[read]
        self._gate.leave(self._sizes[read])

    def close(self) -> None:
        """End the threads; returns when they have ended."""
        self._gate.close()
        self._reader.stop()
        self._reader.join()
        self._here.clear()


class _Gate:
    """Lets reads begin in their order, as long as what is held stays below a bound. In order, since a later file that
    got the last room would keep out the one that is needed first."""

    def __init__(self, room: int):
        self._room, self._next, self._open = room, 0, True
        self._changed = threading.Condition()

    def enter(self, read: int, size: int) -> bool:
        """Wait for the turn and the room of a read; False where the gate was closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or (self._next == read and self._room >= size))
            if self._open:
                self._room -= size
                self._next += 1
                self._changed.notify_all()
            return self._open

    def leave(self, size: int) -> None:
        with self._changed:
            self._room += size
            self._changed.notify_all()

    def wait_for_end(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open)

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()


class _Listed(Reader):
    """Petastorm's reader, over files that a list names: it looks at the first alone for the columns' types."""

    def __init__(self, files: int, *arguments, **options):
        self._files = files
        super().__init__(*arguments, **options)

    def _create_ventilator(self, *_):
        # After the files, each thread gets an item at which it waits for the end: without work it would look for some
        # a thousand times a second, and take the interpreter's lock from training each time.
        items = [*range(self._files), *[None] * self._workers_pool.workers_count]
        return ConcurrentVentilator(self._workers_pool.ventilate, [{"read": item} for item in items], iterations=1)


def _open(first: str, files: int, columns: list[str], worker: type[ArrowReaderWorker], threads: int) -> Reader:
    filesystem, paths = get_filesystem_and_path_or_paths([first])
    # The gate bounds what waits in the queue, so the queue itself need not.
    pool = ThreadPool(threads, results_queue_size=threads * (files + 1))
    return _Listed(
        files,
        filesystem,
        paths,
        schema_fields=[f"^{column}$" for column in columns],
        reader_pool=pool,
        worker_class=worker,
        num_epochs=1,
        shuffle_row_groups=False,
        is_batched_reader=True,
    )


def _worker(urls, sizes, columns, decode, gate: _Gate, fetch: Fetch | None) -> type[ArrowReaderWorker]:
    """Petastorm's class of workers that reads these files."""

    class Worker(ArrowReaderWorker):
        def process(self, read):
            if read is None:
                gate.wait_for_end()
                return
            if not gate.enter(read, sizes[read]):
                return
            try:
                result = decode(read, _read(urls[read], columns, fetch))
            except Exception as error:  # raised where the file is taken: Petastorm would lose which one it was
                result = error
            self.publish_func((read, result))

        @staticmethod
        def new_results_queue_reader():
            return _AsTheyCome()

    return Worker


class _AsTheyCome:
    """Hands on what the threads publish; in Petastorm, this is what makes namedtuples of tables."""

    batched_output = True

    def read_next(self, pool, schema, ngram):
        return pool.get_results()


def _read(url: str, columns: list[str], fetch: Fetch | None) -> pa.Table:
    """A file's only row group."""
    # By name, Arrow reads without the interpreter's lock.
    with pq.ParquetFile(pa.BufferReader(fetch(url)) if fetch else url.removeprefix("file://")) as file:
        return _row_group(file, columns)


def _row_group(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
    missing = set(columns) - set(file.schema_arrow.names)
    if missing:
        raise ValueError(f"expected the columns {', '.join(columns)}; {', '.join(sorted(missing))} is missing")
    if file.num_row_groups != 1:
        raise ValueError(f"expected one row group, found {file.num_row_groups}")
    return file.read_row_group(0, columns=columns, use_threads=False)
