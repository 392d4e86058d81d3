"""Shards on a worker's own disk: whole or not at all, within the limit, and never the end of training."""

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

SIZE = 100 + 4  # of a copy: a shard of 100 bytes, and its checksum


class Store:
    """A slow store: content by URL, and what was asked of it."""

    def __init__(self):
        self.asked = []

    def __call__(self, url):
        self.asked.append(url)
        return pa.py_buffer(url.encode().ljust(100))


@pytest.fixture
def store():
    return Store()


def copies(folder):
    return sorted((folder / "cxrflow").glob("*.shard"))


def fetch(cache, *urls):
    for url in urls:
        assert cache.fetch(url).to_pybytes() == url.encode().ljust(100)


def test_what_was_read_once_is_on_the_disk(tmp_path, store):
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a", "b", "a")
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "b")
    assert store.asked == ["a", "b"]


def test_another_table_at_the_same_place_has_copies_of_its_own(tmp_path, store):
    for table_id in ("id", "another"):
        fetch(ShardCache(str(tmp_path), 1000, table_id, store), "a")
    assert store.asked == ["a", "a"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:50], lambda data: b"", lambda data: b"x" + data[1:], lambda data: bytes(len(data))]
)
def test_a_damaged_copy_is_read_again(tmp_path, store, damage, caplog):
    cache = ShardCache(str(tmp_path), 1000, "id", store)
    fetch(cache, "a")
    (copy,) = copies(tmp_path)
    copy.write_bytes(damage(copy.read_bytes()))
    fetch(cache, "a", "a")
    assert store.asked == ["a", "a"]
    assert "the disk did not keep what was written" in caplog.text


def test_the_limit_holds_and_what_is_used_now_stays(tmp_path, store):
    """A table larger than the cache: what fits is served in every epoch, instead of being thrown away for the rest."""
    cache = ShardCache(str(tmp_path), 3 * SIZE, "id", store)
    for _ in range(3):
        fetch(cache, "a", "b", "c", "d", "e")
    assert len(copies(tmp_path)) == 3
    assert store.asked == ["a", "b", "c", "d", "e", "d", "e", "d", "e"]


def test_the_longest_unused_go_first_once_another_training_begins(tmp_path, store):
    fetch(ShardCache(str(tmp_path), 3 * SIZE, "id", store), "a", "b", "c", "a")
    later = ShardCache(str(tmp_path), 3 * SIZE, "id", store)
    fetch(later, "d")
    assert len(copies(tmp_path)) == 3
    fetch(later, "a", "c")
    assert store.asked == ["a", "b", "c", "d"]


def test_nothing_goes_for_a_shard_that_never_fits(tmp_path, store):
    fetch(ShardCache(str(tmp_path), 3 * SIZE, "id", store), "a", "b")
    fetch(ShardCache(str(tmp_path), SIZE - 1, "id", store), "c")
    assert len(copies(tmp_path)) == 2


def test_a_full_disk_is_warned_of_once_and_leaves_nothing_half_written(tmp_path, store, monkeypatch, caplog):
    cache = ShardCache(str(tmp_path), 1000, "id", store)
    fetch(cache, "a")
    with monkeypatch.context() as full:
        full.setattr(module, "_crc", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        cache._read = lambda path: None
        fetch(cache, "b", "c", "b")
    del cache._read
    fetch(cache, "a")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "No space left on device" in caplog.text and "training goes on" in caplog.text
    assert len(copies(tmp_path)) == 1 and not list(tmp_path.rglob("*.part"))
    assert store.asked == ["a", "b", "c", "b"]


def test_a_folder_that_cannot_be_made_is_warned_of_once(tmp_path, store, caplog):
    (tmp_path / "file").touch()
    fetch(ShardCache(str(tmp_path / "file" / "cache"), 1000, "id", store), "a", "b")
    assert len(caplog.records) == 1 and store.asked == ["a", "b"]


def test_what_a_read_only_cache_holds_is_used(tmp_path, store, monkeypatch, caplog):
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a", "b")
    assert store.asked == ["a", "b"] and len(caplog.records) == 1 and not list(tmp_path.rglob("*.part"))


def test_what_a_killed_writer_left_is_removed(tmp_path, store):
    (tmp_path / "cxrflow").mkdir()
    (tmp_path / "cxrflow" / "dead.part").write_bytes(b"half")
    (tmp_path / "mine.txt").touch()
    fetch(ShardCache(str(tmp_path), 1000, "id", store), "a")
    assert not list(tmp_path.rglob("*.part")) and (tmp_path / "mine.txt").exists()


def test_threads_share_it(tmp_path, store):
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
for _ in range(40):  # each a later training, so they take room from each other all the time
    cache = ShardCache(sys.argv[1], 500_000, "id", lambda url: pa.py_buffer(content[url]))
    for url in content:
        assert cache.fetch(url).to_pybytes() == content[url]
"""


def test_processes_share_it_and_read_no_half_written_file(tmp_path):
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 0 and said == "", said  # not even a damaged copy was found
    assert 0 < sum(copy.stat().st_size for copy in copies(tmp_path)) <= 500_000
    assert not list(tmp_path.rglob("*.part"))
