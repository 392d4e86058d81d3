"""Change a table atomically, by replacing its manifest. Files that the manifest does not name are not in the table.

The files of older generations stay in ``_older`` as long as a reader may need them (``base.generations``).
"""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cxrflow.base import storage
from cxrflow.base.generations import OLDER, generations_in_use, older_generations, older_manifest, older_url
from cxrflow.base.lease import Lease
from cxrflow.base.manifest import Manifest, Shard, has_manifest, read_generation, write_manifest

# An object store takes about 0.1 s to move a file, so many files are moved at a time.
MOVE_THREADS = 16


def commit(table: str, staging: str, manifest: Manifest, lease: Lease) -> Manifest:
    """Move the staged files into the table, then write the manifest; returns the manifest as written.

    In ``manifest``, paths of new shards and quarantine files are relative to ``staging``. If the run dies before the
    manifest is written, the old table stays intact, and the next ``sweep`` removes the files that were already moved.
    The old manifest stays as that of an older generation.
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
    if has_manifest(table) and (generation := read_generation(table)):
        replaced = storage.read_bytes(storage.join(table, "manifest.json"))
        storage.write_bytes(older_manifest(table, generation), replaced)
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


@dataclass(frozen=True)
class Swept:
    """What ``sweep`` did."""

    kept: list[int]
    """The older generations that are still there."""
    removed: int
    """Number of Parquet files that were removed."""


def sweep(table: str, manifest: Manifest, lease: Lease, keep: int = 1, grace_seconds: float = 0.0) -> Swept:
    """Move the shards that only older generations name to ``_older``, and remove what no generation names.

    The newest ``keep`` generations stay, the current one included, those that a job reads, and those that were replaced
    less than ``grace_seconds`` ago. The manifest of another generation is removed before its files, so that no job
    begins to read it. Raises RuntimeError, and removes nothing, if a file of the current manifest is missing.
    """
    lease.check()
    current = {*(shard.path for shard in manifest.shards), *manifest.quarantine}
    found = _parquet_files(table, "samples") | _parquet_files(table, "quarantine")
    if not current <= found:
        raise RuntimeError(f"{table}: {len(current - found)} files of the manifest are missing; nothing was removed")
    older = _older_shards(table, manifest.generation, keep, grace_seconds)
    kept = set().union(*older.values()) - current
    unnamed = found - current - kept
    moved = sorted((found - current) & kept)
    with ThreadPoolExecutor(MOVE_THREADS) as pool:
        list(pool.map(lambda path: storage.move(storage.join(table, path), older_url(table, path)), moved))
    expired = _parquet_files(storage.join(table, OLDER), "samples") - kept
    for url in [*(storage.join(table, path) for path in unnamed), *(older_url(table, path) for path in expired)]:
        storage.remove(url)
    if not older:
        storage.remove(storage.join(table, OLDER))
    return Swept(sorted(older), len(unnamed) + len(expired))


def _older_shards(table: str, current: int, keep: int, grace_seconds: float) -> dict[int, set[str]]:
    """The paths of the shards of each older generation that stays. Removes the manifests of the others."""
    storage.remove_temporary_files(storage.join(table, OLDER))
    in_use, shards = generations_in_use(table), {}
    for generation in older_generations(table):
        url = older_manifest(table, generation)
        is_recent = time.time() - storage.modified(url) < grace_seconds
        if generation < current and (generation > current - keep or generation in in_use or is_recent):
            shards[generation] = {shard["path"] for shard in json.loads(storage.read_bytes(url)).get("shards", [])}
        else:
            storage.remove(url)
    return shards


def _parquet_files(table: str, folder: str) -> set[str]:
    """The paths, relative to ``table``, of the Parquet files below ``table/folder``."""
    root = storage.absolute(table) + "/"
    paths = {url.removeprefix(root) for url in storage.files(storage.join(table, folder), ".parquet")}
    return {path for path in paths if "/_delta_log/" not in path}
