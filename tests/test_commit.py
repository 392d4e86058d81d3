"""How a table changes, also on a file system that is not the local one."""

import os
import subprocess
import sys

import pytest

from cxrflow.base import lease, storage
from cxrflow.base.config import VacuumConfig
from cxrflow.base.errors import UserError
from cxrflow.base.generations import READERS, generations_in_use, older_generations, read_from_any_generation, reading
from cxrflow.base.manifest import Manifest, Shard, read_manifest
from cxrflow.catalog.commit import commit, sweep
from cxrflow.pipeline.vacuum_job import vacuum


def stage(staging, number, generation):
    for path in (f"split=train/{number}.parquet", "quarantine/files.parquet"):
        storage.write_bytes(storage.join(staging, path), f"{number} {path}".encode())
    shard = Shard(
        path=f"split=train/{number}.parquet", split="train", rows=1, labels={"A": 1}, checksum=f"{number:016x}"
    )
    return Manifest(
        generation=generation,
        height=1,
        width=1,
        labels=["A"],
        shard_rows=1,
        shards=[shard],
        quarantined={},
        quarantine=["quarantine/files.parquet"],
        config={},
        columns={},
    )


@pytest.mark.parametrize("table", ["{}/table", "memory://commit{}/table"])
def test_what_the_manifest_names_is_there_and_nothing_else(tmp_path, table):
    table = table.format(tmp_path)
    staging = storage.join(table, "_staging/run")
    for number in (1, 2):
        with lease.hold(table, "--table") as held:
            manifest = commit(table, staging, stage(staging, number, number), held)
            sweep(table, manifest, held)
        assert read_manifest(table) == manifest
        assert storage.files(storage.join(table, "samples"), ".parquet") == [
            storage.join(table, f"samples/split=train/{number:06d}-{number:016x}.parquet")
        ]
        assert storage.files(storage.join(table, "quarantine"), ".parquet") == [
            storage.join(table, f"quarantine/{number:06d}-files.parquet")
        ]


def test_nothing_is_removed_where_named_files_are_missing(tmp_path):
    staging = storage.join(str(tmp_path), "_staging/run")
    with lease.hold(str(tmp_path), "--table") as held:
        manifest = commit(str(tmp_path), staging, stage(staging, 1, 1), held)
        storage.write_bytes(storage.join(str(tmp_path), "samples/split=train/other.parquet"), b"")
        storage.remove(storage.join(str(tmp_path), manifest.shards[0].path))
        with pytest.raises(RuntimeError, match="1 files of the manifest are missing; nothing was removed"):
            sweep(str(tmp_path), manifest, held)
    assert storage.exists(storage.join(str(tmp_path), "samples/split=train/other.parquet"))


def ingest(table, number, **retention):
    """A commit of one shard, which replaces that of the generation before; returns the manifest."""
    staging = storage.join(table, "_staging/run")
    with lease.hold(table, "--table") as held:
        manifest = commit(table, staging, stage(staging, number, number), held)
        sweep(table, manifest, held, **retention)
    return manifest


def content(table, manifest):
    return read_from_any_generation(storage.read_bytes, storage.join(table, manifest.shards[0].path))


@pytest.mark.parametrize("table", ["{}/table", "memory://reading{}/table"])
def test_a_reader_keeps_the_generation_that_it_began_with(tmp_path, table):
    table = table.format(tmp_path)
    first = ingest(table, 1)
    with reading(table, 1):
        for number in (2, 3):
            newest = ingest(table, number)
        assert read_manifest(table, 1) == first and content(table, first) == b"1 split=train/1.parquet"
        assert older_generations(table) == [1]  # nobody read the second one
        # A program that lists the folder, as Spark does, reads the newest rows alone.
        shards = storage.files(storage.join(table, "samples"), ".parquet")
        assert shards == [storage.join(table, newest.shards[0].path)]
        assert vacuum(VacuumConfig(table=table, grace_hours=0))["kept"] == [1]
    assert vacuum(VacuumConfig(table=table, grace_hours=0))["removed"] == 1
    assert not storage.exists(storage.join(table, "_older")) and read_manifest(table) == newest
    with pytest.raises(UserError, match=r"--generation: expected one of .* still has \(3\), got 1"):
        read_manifest(table, 1)
    with pytest.raises(FileNotFoundError, match="samples"):
        content(table, first)


def test_the_newest_generations_and_recent_ones_stay(tmp_path):
    table = str(tmp_path)
    manifests = [ingest(table, number, keep=3) for number in (1, 2, 3, 4)]
    assert older_generations(table) == [3, 2]
    ingest(table, 5, grace_seconds=3600)
    assert older_generations(table) == [4, 3, 2]
    assert content(table, manifests[1]) == b"2 split=train/2.parquet"
    os.utime(tmp_path / "_older" / "000003.json", (0, 0))
    assert vacuum(VacuumConfig(table=table, grace_hours=1))["kept"] == [2, 4]


def test_a_reader_that_was_killed_keeps_nothing(tmp_path):
    script = (
        "import os, cxrflow.base.generations as generations\n"
        f"held = generations.reading({str(tmp_path)!r}, 1); held.__enter__()\n"
        "os.kill(os.getpid(), 9)"
    )
    ingest(str(tmp_path), 1)
    assert subprocess.run([sys.executable, "-c", script], env=os.environ, check=False).returncode == -9
    assert storage.entries(storage.join(str(tmp_path), READERS)) and generations_in_use(str(tmp_path)) == set()
    assert storage.entries(storage.join(str(tmp_path), READERS)) == []


def test_a_table_that_cannot_be_written_to_can_be_read(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError("read-only")

    caplog.set_level("INFO")
    monkeypatch.setattr(storage, "write_bytes", refuse)
    with reading(str(tmp_path), 1):
        assert "cannot be written to (read-only)" in caplog.text
