"""How a table changes, also on a file system that is not the local one."""

import pytest

from cxrflow.base import lease, storage
from cxrflow.base.manifest import Manifest, Shard, read_manifest
from cxrflow.catalog.commit import commit, sweep


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
