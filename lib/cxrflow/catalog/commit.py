"""How a table changes: at once, by its manifest. What the manifest does not name is no part of the table."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

from cxrflow.base import storage
from cxrflow.base.lease import Lease
from cxrflow.base.manifest import Manifest, Shard, write_manifest

# An object store takes a tenth of a second to move a file, and many at a time.
MOVES_AT_ONCE = 16


def commit(table: str, staging: str, manifest: Manifest, lease: Lease) -> Manifest:
    """Move what was staged into the table, then write the manifest.

    In ``manifest``, shards and quarantine files that are not in the table yet have their place below ``staging`` as
    path. A run that dies before the manifest is written leaves the old table whole, with some files beside it that
    belong to nothing and that the next ``sweep`` removes. Returns the manifest as it was written.
    """
    lease.check()
    moves: list[tuple[str, str]] = []
    shards = [_final_path(staging, shard, manifest.generation, moves) for shard in manifest.shards]
    quarantine = []
    for path in manifest.quarantine:
        place = f"quarantine/{manifest.generation:06d}-{path.rsplit('/', 1)[1]}"
        quarantine.append(place)
        moves.append((storage.join(staging, path), place))
    with ThreadPoolExecutor(MOVES_AT_ONCE) as pool:
        list(pool.map(lambda move: storage.move(move[0], storage.join(table, move[1])), moves))
    manifest = dataclasses.replace(
        manifest, quarantine=quarantine, shards=sorted(shards, key=lambda shard: (shard.split, shard.checksum))
    )
    lease.check()
    write_manifest(table, manifest)
    return manifest


def _final_path(staging: str, shard: Shard, generation: int, moves: list[tuple[str, str]]) -> Shard:
    """The shard with its path in the table; notes the move of one that is staged."""
    if shard.path.startswith("samples/"):
        return shard
    # The generation keeps a rewritten shard from taking the place of the one that the old manifest still names.
    path = f"samples/split={shard.split}/{generation:06d}-{shard.checksum}.parquet"
    moves.append((storage.join(staging, shard.path), path))
    return dataclasses.replace(shard, path=path)


def sweep(table: str, manifest: Manifest, lease: Lease) -> None:
    """Remove the Parquet files of the table's folders that the manifest does not name."""
    lease.check()
    named = {storage.join(table, path) for path in [*(shard.path for shard in manifest.shards), *manifest.quarantine]}
    found = {
        path for folder in ("samples", "quarantine") for path in storage.files(storage.join(table, folder), ".parquet")
    }
    if not named <= found:
        raise RuntimeError(
            f"{table}: {len(named - found)} files that the manifest names are not there; nothing was removed"
        )
    for path in found - named:
        storage.remove(path)
