"""All patches to Petastorm, for version 0.13.1.

Each change says why it is needed and names the upstream issue, if there is one. ``tests/test_petastorm_patches.py``
has a test for each that fails when a newer Petastorm no longer needs the change. Then remove it.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base.schema import SAMPLES

# Change 1: silence pyarrow's deprecation warnings about Petastorm. Petastorm uses the legacy ParquetDataset and file
# system classes, which warn at import and at every use. A user can do nothing about them.
# https://github.com/uber/petastorm/issues/613, https://github.com/uber/petastorm/issues/800
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
warnings.filterwarnings("ignore", category=FutureWarning, message=".*(ParquetDataset|legacy|_legacy|pyarrow.localfs).*")

from petastorm.arrow_reader_worker import ArrowReaderWorker  # noqa: E402  # after the filters, since importing warns
from petastorm.fs_utils import get_filesystem_and_path_or_paths  # noqa: E402
from petastorm.reader import Reader  # noqa: E402
from petastorm.workers_pool.thread_pool import ThreadPool  # noqa: E402
from petastorm.workers_pool.ventilator import ConcurrentVentilator  # noqa: E402

Read = Callable[[], object]
"""Reads one shard and returns the result to hand over, or None for nothing."""


class _Worker(ArrowReaderWorker):
    """Change 2: pass on the Arrow table as it was read.

    Petastorm's worker copies each row group three times: into another table, into pandas and into one bytes object per
    image. https://github.com/uber/petastorm/issues/230
    """

    def process(self, read: Read) -> None:
        result = read()
        if result is not None:
            self.publish_func(result)

    @staticmethod
    def new_results_queue_reader() -> _Results:
        return _Results()


class _Results:
    """Change 2, on the caller's side: Petastorm's own class makes namedtuples of NumPy columns here."""

    batched_output = True

    def read_next(self, pool, schema, ngram):
        return pool.get_results()


class _Reader(Reader):
    """Changes 3 and 4, both through the list of items that the ventilator hands to the threads.

    Change 3: do not open any shard in the constructor. Petastorm lists the row groups of all files first, which opens
    every file for its footer, on S3 with several requests each, before the first row comes. The manifest already says
    that each file has one row group. https://github.com/uber/petastorm/issues/443

    Change 4: park idle threads. Without an item, a thread of the pool polls its queue every millisecond and takes the
    interpreter's lock from training each time. After the reads, each thread gets an item that waits for the end.
    (No upstream issue is known.)
    """

    def __init__(self, reads: list[Read], wait_for_end: Callable[[], None], *arguments, **options):
        self._reads, self._wait_for_end = reads, wait_for_end
        super().__init__(*arguments, **options)

    def _create_ventilator(self, *_) -> ConcurrentVentilator:
        items = [*self._reads, *[self._wait_for_end] * self._workers_pool.workers_count]
        return ConcurrentVentilator(self._workers_pool.ventilate, [{"read": item} for item in items], iterations=1)


def open_reader(reads: list[Read], columns: list[str], threads: int, wait_for_end: Callable[[], None]) -> Reader:
    """A Petastorm reader whose ``next`` returns the reads' results in order.

    ``wait_for_end`` is called on each thread after the last read. It must return None once the reader is stopped.
    """
    # The queue needs no bound of its own: a read begins only while the caller's byte budget has room.
    pool = ThreadPool(threads, results_queue_size=threads * (len(reads) + 1))
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        # Part of change 3: the constructor still opens one file to learn the columns' types. It gets an empty one.
        path = Path(folder) / "columns.parquet"
        pq.write_table(pa.table({name: pa.array([None], SAMPLES.field(name).type) for name in columns}), path)
        filesystem, paths = get_filesystem_and_path_or_paths([f"file://{path}"])
        reader = _Reader(
            reads,
            wait_for_end,
            filesystem,
            paths,
            schema_fields=[f"^{column}$" for column in columns],
            reader_pool=pool,
            worker_class=_Worker,
            num_epochs=1,
            shuffle_row_groups=False,
            is_batched_reader=True,
        )
    # Change 5: wait until the ventilator has handed out every item. While it is still handing out, the pool may take
    # the pause between two items for the end of a thread's work: it then skips that thread, or ends the epoch early.
    # https://github.com/uber/petastorm/issues/71 describes such a race.
    while not reader.ventilator.completed():
        time.sleep(0.0005)
    return reader
