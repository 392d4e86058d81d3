"""Change a table atomically, by replacing its manifest. Files that the manifest does not name are not in the table."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

from cxrflow.base import storage
from cxrflow.base.lease import Lease
from cxrflow.base.manifest import Manifest, Shard, write_manifest

# An object store takes about 0.1 s to move a file, so many files are moved at a time.
MOVE_THREADS = 16


def commit(table: str, staging: str, manifest: Manifest, lease: Lease) -> Manifest:
    """Move the staged files into the table, then write the manifest; returns the manifest as written.

    In ``manifest``, paths of new shards and quarantine files are relative to ``staging``. If the run dies before the
    manifest is written, the old table stays intact, and the next ``sweep`` removes the files that were already moved.
    """
    lease.check()
    moves: list[tuple[str, str]] = []
    shards = [_final_path(staging, shard, manifest.generation, moves) for shard in manifest.shards]
    quarantine = []
    for staged in manifest.quarantine:
        path = f"quarantine/{manifest.generation:06d}-{staged.rsplit('/', 1)[1]}"
        quarantine.append(path)
        moves.append((storage.join(staging, staged), path))
    with ThreadPoolExecutor(MOVE_THREADS) as pool:
        list(pool.map(lambda move: storage.move(move[0], storage.join(table, move[1])), moves))
    manifest = dataclasses.replace(
        manifest, quarantine=quarantine, shards=sorted(shards, key=lambda shard: (shard.split, shard.checksum))
    )
    lease.check()
    write_manifest(table, manifest)
    return manifest


def _final_path(staging: str, shard: Shard, generation: int, moves: list[tuple[str, str]]) -> Shard:
    """The shard with its path in the table; appends the move of a staged shard to ``moves``."""
    if shard.path.startswith("samples/"):
        return shard
    # The generation keeps a new shard from overwriting one that the old manifest still names.
    path = f"samples/split={shard.split}/{generation:06d}-{shard.checksum}.parquet"
    moves.append((storage.join(staging, shard.path), path))
    return dataclasses.replace(shard, path=path)


def sweep(table: str, manifest: Manifest, lease: Lease) -> None:
    """Remove the Parquet files in the table's folders that the manifest does not name.

    Raises RuntimeError, and removes nothing, if a file of the manifest is missing.
    """
    lease.check()
    named = {storage.join(table, path) for path in [*(shard.path for shard in manifest.shards), *manifest.quarantine]}
    found = {
        path for folder in ("samples", "quarantine") for path in storage.files(storage.join(table, folder), ".parquet")
    }
    if not named <= found:
        raise RuntimeError(f"{table}: {len(named - found)} files of the manifest are missing; nothing was removed")
    for path in found - named:
        storage.remove(path)
