"""The shard cache: intact copies only, within the size limit, and no fault of the disk stops training."""

import errno
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from cxrflow.training import shard_cache as module
from cxrflow.training.shard_cache import ShardCache

SIZE = 100 + 4  # bytes of a copy: a shard of 100 bytes and its checksum


class Store:
    """Returns content by URL and records which URLs were requested."""

    def __init__(self):
        self.requested = []

    def __call__(self, url):
        self.requested.append(url)
        return pa.py_buffer(url.encode().ljust(100))


@pytest.fixture
def store():
    return Store()


def copies(folder):
    return sorted((folder / "cxrflow").glob("*.shard"))


def fetch(cache, *urls):
    for url in urls:
        assert cache.fetch(url).to_pybytes() == url.encode().ljust(100)


def test_a_shard_is_fetched_once(tmp_path, store):
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a", "b", "a")
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "b")
    assert store.requested == ["a", "b"]


def test_another_table_with_the_same_urls_has_its_own_copies(tmp_path, store):
    for table_id in ("id", "another"):
        fetch(ShardCache(str(tmp_path), 1000, table_id, store), "a")
    assert store.requested == ["a", "a"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:50], lambda data: b"", lambda data: b"x" + data[1:], lambda data: bytes(len(data))]
)
def test_a_damaged_copy_is_read_again(tmp_path, store, damage, caplog):
    cache = ShardCache(str(tmp_path), 1000, "id", store)
    fetch(cache, "a")
    (copy,) = copies(tmp_path)
    copy.write_bytes(damage(copy.read_bytes()))
    fetch(cache, "a", "a")
    assert store.requested == ["a", "a"]
    assert "the cached shard is damaged" in caplog.text


def test_the_limit_holds_and_copies_used_in_this_run_stay(tmp_path, store):
    """Of a table larger than the cache, the shards that fit are served in every epoch."""
    cache = ShardCache(str(tmp_path), 3 * SIZE, "id", store)
    for _ in range(3):
        fetch(cache, "a", "b", "c", "d", "e")
    assert len(copies(tmp_path)) == 3
    assert store.requested == ["a", "b", "c", "d", "e", "d", "e", "d", "e"]


def test_a_later_run_evicts_the_least_recently_used_copies(tmp_path, store):
    fetch(ShardCache(str(tmp_path), 3 * SIZE, "id", store), "a", "b", "c", "a")
    later = ShardCache(str(tmp_path), 3 * SIZE, "id", store)
    fetch(later, "d")
    assert len(copies(tmp_path)) == 3
    fetch(later, "a", "c")
    assert store.requested == ["a", "b", "c", "d"]


def test_nothing_is_evicted_for_a_shard_that_cannot_fit(tmp_path, store):
    fetch(ShardCache(str(tmp_path), 3 * SIZE, "id", store), "a", "b")
    fetch(ShardCache(str(tmp_path), SIZE - 1, "id", store), "c")
    assert len(copies(tmp_path)) == 2


def test_a_full_disk_is_logged_once_and_leaves_no_partial_file(tmp_path, store, monkeypatch, caplog):
    cache = ShardCache(str(tmp_path), 1000, "id", store)
    fetch(cache, "a")
    with monkeypatch.context() as full:
        full.setattr(module, "_crc", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        cache._read = lambda path: None
        fetch(cache, "b", "c", "b")
    del cache._read
    fetch(cache, "a")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "No space left on device" in caplog.text and "training continues" in caplog.text
    assert len(copies(tmp_path)) == 1 and not list(tmp_path.rglob("*.part"))
    assert store.requested == ["a", "b", "c", "b"]


def test_a_folder_that_cannot_be_made_is_logged_once(tmp_path, store, caplog):
    (tmp_path / "file").touch()
    fetch(ShardCache(str(tmp_path / "file" / "cache"), 1000, "id", store), "a", "b")
    assert len(caplog.records) == 1 and store.requested == ["a", "b"]


def test_a_read_only_cache_is_used(tmp_path, store, monkeypatch, caplog):
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a", "b")
    assert store.requested == ["a", "b"] and len(caplog.records) == 1 and not list(tmp_path.rglob("*.part"))


def test_the_partial_file_of_a_killed_writer_is_removed(tmp_path, store):
    (tmp_path / "cxrflow").mkdir()
    (tmp_path / "cxrflow" / "dead.part").write_bytes(b"half")
    (tmp_path / "mine.txt").touch()
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a")
    assert not list(tmp_path.rglob("*.part")) and (tmp_path / "mine.txt").exists()


def test_threads_share_a_cache(tmp_path, store):
    cache, before = ShardCache(str(tmp_path), 10 * SIZE, "id", store), threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: fetch(cache, str(n % 20)), range(400)))
    assert len(copies(tmp_path)) == 10
    assert threading.active_count() <= before


WORKER = """
import sys
import pyarrow as pa
from cxrflow.training.shard_cache import ShardCache

content = {str(n): str(n).encode() * 20_000 for n in range(30)}
for _ in range(40):  # each is a later run, so they evict each other's copies all the time
    cache = ShardCache(sys.argv[1], 500_000, "id", lambda url: pa.py_buffer(content[url]))
    for url in content:
        assert cache.fetch(url).to_pybytes() == content[url]
"""


@pytest.mark.cluster
def test_processes_share_a_cache_and_read_no_partial_file(tmp_path):
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0 and errors == "", errors  # not even a damaged copy was found
    assert 0 < sum(copy.stat().st_size for copy in copies(tmp_path)) <= 500_000
    assert not list(tmp_path.rglob("*.part"))
