"""What every shard reader does: order, read-ahead within the budget, faults in their turn, no threads left."""

import subprocess
import sys
import threading
import time
import weakref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrflow.base.errors import UserError
from cxrflow.training import shard_reader
from cxrflow.training.reader_interface import ReadRequest, read_row_group
from cxrflow.training.shard_reader import READERS, default_reader, find_reader

COLUMNS = ["sample_id", "label", "pixels"]
SIZE = 100


@pytest.fixture
def open_reader(reader):
    """Opens a reader of each implementation, and checks that none leaves a thread behind."""
    before, readers = threading.active_count(), []

    def open_with(urls, budget=10**6, threads=2, fetch=None):
        sizes = [SIZE] * len(urls)
        readers.append(
            find_reader()(
                ReadRequest(urls=urls, sizes=sizes, columns=COLUMNS, budget=budget, threads=threads, fetch=fetch)
            )
        )
        return readers[-1]

    yield open_with
    for reader in readers:
        reader.close()
    assert threading.active_count() == before


def shard(number):
    return pa.table({"sample_id": [number], "label": ["A"], "pixels": [b"x" * SIZE], "patient_id": ["p"]})


@pytest.fixture
def urls(tmp_path):
    paths = [tmp_path / f"{number}.parquet" for number in range(20)]
    for number, path in enumerate(paths):
        pq.write_table(shard(number), path)
    return list(map(str, paths))


class Store:
    """A fetch function that records its calls and takes ``seconds`` for each."""

    def __init__(self, seconds=0.0):
        self.fetched, self._seconds = [], seconds

    def __call__(self, url):
        self.fetched.append(url)
        time.sleep(self._seconds)
        sink = pa.BufferOutputStream()
        pq.write_table(shard(int(url)), sink)
        return sink.getvalue()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_shards_come_in_order_with_the_columns_that_were_requested(open_reader, urls, threads):
    order = [3, 0, 0, 19, *range(20)]
    reader = open_reader([urls[number] for number in order], threads=threads)
    tables = [reader.read_next() for _ in order]
    assert [table["sample_id"][0].as_py() for table in tables] == order
    assert tables[0].column_names == COLUMNS


def test_a_reader_reads_ahead_up_to_the_budget(open_reader):
    store = Store()
    reader = open_reader([str(number) for number in range(6)], budget=2 * SIZE, threads=3, fetch=store)
    wait_until(lambda: len(store.fetched) == 2)
    time.sleep(0.1)
    assert sorted(store.fetched) == ["0", "1"]
    for read in range(6):
        assert reader.read_next()["sample_id"][0].as_py() == read
        reader.release(read)
        assert len(store.fetched) <= read + 3
    assert len(store.fetched) == 6


def test_a_fault_is_raised_in_its_turn(open_reader, urls):
    reader = open_reader([urls[0], urls[1], "/nothing/here.parquet", urls[3]])
    assert [reader.read_next()["sample_id"][0].as_py() for _ in range(2)] == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"here\.parquet"):
        reader.read_next()
    assert reader.read_next()["sample_id"][0].as_py() == 3


def test_a_reader_closes_while_reads_wait_for_the_budget_and_while_it_fetches(open_reader):
    open_reader([str(number) for number in range(50)], budget=SIZE, fetch=Store()).close()
    open_reader([str(number) for number in range(50)], fetch=Store(seconds=0.2)).close()


def test_an_unknown_reader_lists_the_known_ones():
    with pytest.raises(UserError, match=r"expected one of petastorm, arrow, got 'none'"):
        find_reader("none")


@pytest.mark.parametrize(
    ("spec", "arrow", "expected"),
    [(object(), "14.0.2", "petastorm"), (object(), "15.0.0", "arrow"), (None, "14.0.2", "arrow")],
)
def test_petastorm_is_the_default_where_it_is_installed_and_runs(monkeypatch, spec, arrow, expected):
    monkeypatch.setattr(shard_reader, "find_spec", lambda name: spec)
    monkeypatch.setattr(pa, "__version__", arrow)
    assert default_reader() == expected


def test_all_readers_are_tested(reader):
    assert reader in READERS and len(READERS) == 2


def test_a_released_shard_is_freed_while_the_reader_continues(open_reader):
    """Neither the reader nor its threads keep a table, or memory would hold more than the budget."""
    reader = open_reader([str(number) for number in range(8)], budget=2 * SIZE, fetch=Store())
    for read in range(8):
        table = weakref.ref(reader.read_next())
        wait_until(lambda table=table: table() is None)
        reader.release(read)


LEFT_OPEN = """
from cxrflow.training import shard_reader
from cxrflow.training.reader_interface import ReadRequest
request = ReadRequest(urls=["a", "b"], sizes=[1, 1], columns=["label"], budget=1, threads=2, fetch=bytes)
reader = shard_reader.find_reader(READER)(request)
raise SystemExit(7)
"""


@pytest.mark.cluster
def test_a_process_ends_although_a_reader_is_open(reader):
    code = LEFT_OPEN.replace("READER", repr(reader))
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 7


def test_a_missing_column_and_a_second_row_group_are_errors(urls, tmp_path):
    with pytest.raises(ValueError, match="expected the columns sample_id, age, got none named age"):
        read_row_group(urls[0], ["sample_id", "age"])
    pq.write_table(pa.concat_tables([shard(0), shard(1)]), tmp_path / "two.parquet", row_group_size=1)
    with pytest.raises(ValueError, match="expected one row group, got 2"):
        read_row_group(str(tmp_path / "two.parquet"), COLUMNS)
