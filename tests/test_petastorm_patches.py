"""Each change that we make to Petastorm is still needed, and works.

If one of the tests about the unchanged Petastorm fails, that change can be removed from ``petastorm_patches``.
"""

import subprocess
import sys
import threading
import time
from collections import Counter
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrflow.training import petastorm_patches  # first, since it silences the warnings of the imports below

from petastorm import make_batch_reader  # isort: skip
from petastorm.workers_pool import EmptyResultError, thread_pool  # isort: skip
from petastorm.workers_pool.thread_pool import ThreadPool  # isort: skip
from petastorm.workers_pool.worker_base import WorkerBase  # isort: skip

COLUMNS = ["sample_id", "label", "pixels"]


@pytest.fixture
def urls(tmp_path):
    """Two shards."""
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"sample_id": [number], "label": ["A"], "pixels": [b"x" * 100]}), path)
    return [f"file://{path}" for path in paths]


@pytest.fixture
def open_patched():
    """Opens patched readers; they are stopped after the test."""
    ended, readers = threading.Event(), []

    def open_reads(reads, threads=2):
        readers.append(petastorm_patches.open_reader(reads, COLUMNS, threads, lambda: ended.wait() and None))
        return readers[-1]

    yield open_reads
    ended.set()
    for reader in readers:
        reader.stop()
        reader.join()


def stderr_of(code, *arguments):
    """Standard error of a new Python process with Python's own filters for warnings."""
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return process.stderr


UNCHANGED = """
import sys
from petastorm import make_batch_reader
with make_batch_reader(sys.argv[1:], reader_pool_type="dummy") as reader:
    next(reader)
"""
PATCHED = """
from cxrflow.training import petastorm_patches
reader = petastorm_patches.open_reader([lambda: 1], ["label"], 1, lambda: None)
next(reader)
reader.stop()
reader.join()
"""


@pytest.mark.cluster
def test_1_petastorm_still_warns_of_legacy_pyarrow(urls):
    assert "FutureWarning" in stderr_of(UNCHANGED, *urls)
    assert "FutureWarning" not in stderr_of(PATCHED)


def test_2_petastorm_still_makes_an_object_of_each_image(urls, open_patched):
    with make_batch_reader(urls, reader_pool_type="dummy") as reader:
        assert isinstance(next(reader).pixels[0], bytes)
    table = pa.table({"label": ["A"]})
    assert next(open_patched([lambda: table])) is table


def test_3_petastorm_still_opens_every_file_before_the_first_row(urls, tmp_path, open_patched):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no Parquet file")
    with pytest.raises(pa.ArrowInvalid):
        make_batch_reader([*urls, f"file://{broken}"], reader_pool_type="dummy")
    opened = []
    reader = open_patched([lambda number=number: opened.append(number) or number for number in range(100)])
    assert [next(reader) for _ in range(100)] == list(range(100))
    assert sorted(opened) == list(range(100))


class Echo(WorkerBase):
    def process(self, item):
        self.publish_func(item)


class CountingQueue(thread_pool.queue.Queue):
    """Counts the calls of ``get`` of each thread."""

    calls: ClassVar[Counter] = Counter()

    def get(self, *arguments, **options):
        CountingQueue.calls[threading.current_thread()] += 1
        return super().get(*arguments, **options)


def polls(seconds=0.3):
    """Calls of ``get`` by other threads during this time."""
    CountingQueue.calls.clear()
    time.sleep(seconds)
    return sum(CountingQueue.calls.values())


def test_4_idle_threads_of_petastorm_still_poll(open_patched, monkeypatch):
    monkeypatch.setattr(thread_pool.queue, "Queue", CountingQueue)
    pool = ThreadPool(2)
    pool.start(Echo)
    assert polls() > 50
    pool.stop()
    pool.join()
    reader = open_patched([lambda: 1])
    next(reader)
    time.sleep(0.1)
    assert polls() == 0


class LateVentilator:
    """Hands out an item after the pool looked for work and before the pool asks whether that was all."""

    def __init__(self, pool):
        self._pool, self._done = pool, False

    def start(self):
        pass

    def stop(self):
        pass

    def processed_item(self):
        pass

    def completed(self):
        if not self._done:
            self._done = True
            self._pool.ventilate(item=1)
        return True


def test_5_petastorm_still_takes_a_pause_between_two_items_for_the_end():
    pool = ThreadPool(1)
    pool.start(Echo, ventilator=LateVentilator(pool))
    with pytest.raises(EmptyResultError):
        pool.get_results()
    pool.stop()
    pool.join()


def test_5_a_patched_reader_starts_after_every_item_is_handed_out(open_patched):
    for _ in range(50):
        reader = open_patched([lambda number=number: number for number in range(30)])
        assert reader.ventilator.completed()
        assert [next(reader) for _ in range(30)] == list(range(30))
