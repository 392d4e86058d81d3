import os
import sys

import pytest

from cxrflow.base import storage
from cxrflow.base.errors import UserError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/data/x/", "/data/x"),
        ("file:/data/a b", "/data/a b"),
        ("file:///data/a%20b#1", "/data/a%20b#1"),  # taken as written: nothing is decoded
        ("dbfs:/mnt/x", "/dbfs/mnt/x"),
        ("/Volumes/c/s/v", "/Volumes/c/s/v"),
        ("s3://bucket/key/", "s3://bucket/key"),
    ],
)
def test_absolute(written, meant):
    assert storage.absolute(written) == meant


def test_a_relative_path_becomes_absolute_for_every_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("table") == str(tmp_path / "table")


@pytest.mark.parametrize(
    ("url", "spark"),
    [
        ("/data/x", "file:///data/x"),
        ("dbfs:/mnt/x", "dbfs:/mnt/x"),
        ("/dbfs/mnt/x", "dbfs:/mnt/x"),
        ("/Volumes/c/s/v", "/Volumes/c/s/v"),
        ("s3://b/k", "s3://b/k"),
    ],
)
def test_for_spark(url, spark):
    assert storage.for_spark(url) == spark


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    url = tmp_path / "config.json"
    storage.write_bytes(str(url), b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(str(url), "not bytes")
    assert url.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["config.json"]


def test_another_file_system_than_the_local_one():
    storage.write_bytes("memory://bucket/a/b.json", b"1")
    assert storage.exists("memory://bucket/a/b.json")
    assert storage.read_bytes("memory://bucket/a/b.json") == b"1"
    assert storage.files("memory://bucket", ".json") == ["memory://bucket/a/b.json"]
    storage.move("memory://bucket/a/b.json", "memory://bucket/c.json")
    storage.remove("memory://bucket/a")
    assert storage.files("memory://bucket", ".json") == ["memory://bucket/c.json"]


@pytest.mark.parametrize(
    ("url", "module", "message"),
    [
        ("gs://bucket/x", "gcsfs", "gs://bucket/x: expected the package for this file system, found none; .*gcsfs"),
        ("s3://bucket/x", "s3fs", r's3://bucket/x: expected the package s3fs, found none; pip install "cxrflow\[s3\]"'),
        (
            "abfss://c@a.dfs.core.windows.net/x",
            "adlfs",
            "expected a file system that fsspec knows, .* adlfs for abfss",
        ),
    ],
)
def test_a_file_system_without_its_package(monkeypatch, url, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
    with pytest.raises(UserError, match=message):
        storage.filesystem(url)
