"""Whether the table can be read and the run directory written from here."""

from __future__ import annotations

import posixpath

from cxrflow.base import storage
from cxrflow.base.manifest import read_generation, read_manifest
from cxrflow.base.shard_files import checksum, read_shard


def read_table(table: str, generation: int, part: int) -> dict:
    """Read the manifest and, of the train split, the shard number ``part`` (counted round): its footer and its samples'
    keys. Returns ``shard`` and ``rows``. Raises where they are not those of the driver's manifest."""
    if (found := read_generation(table)) != generation:
        raise ValueError(
            f"expected the table in its generation {generation}, which the driver sees, found {found}: "
            "another table, or an old copy"
        )
    manifest = read_manifest(table)
    shards = manifest.of_split("train")
    shard = shards[part % len(shards)]
    place = storage.join(table, shard.path)
    ids = read_shard(place, columns=["sample_id"])["sample_id"].to_numpy()
    if len(ids) != shard.rows or checksum(ids) != shard.checksum:
        raise ValueError(f"{place}: its samples are not those that the manifest says")
    return {"shard": shard.path, "rows": shard.rows}


class ProbeFile:
    """A small file in the run directory, which others look for. What was made for it goes with it."""

    def __init__(self, run: str, name: str):
        self.place = _mark(run, name)
        self._made = _missing_folders(run)

    def write(self) -> None:
        """Raises OSError where it cannot be written or does not come back as it was written."""
        content = posixpath.basename(self.place).encode()
        storage.write_bytes(self.place, content)
        if (found := storage.read_bytes(self.place)) != content:
            raise OSError(f"{self.place}: expected {content!r}, which was just written, read {found[:80]!r}")

    def remove(self) -> None:
        """Raises OSError where it cannot be removed; nothing happens where it is not there."""
        storage.remove(self.place)
        for folder in self._made:  # another worker may have made them at the same time, and still have its mark there
            try:
                storage.remove_if_empty(folder)
            except OSError:
                return


def sees_mark(run: str, name: str) -> bool:
    """Whether the mark that somebody else wrote is in the run directory as it is seen from here."""
    return storage.exists(_mark(run, name))


def _mark(run: str, name: str) -> str:
    return storage.join(run, f".preflight-{name}")


def _missing_folders(url: str) -> list[str]:
    """Those of a folder and its parents that are not there, innermost first. An object store has none."""
    if not storage.is_local(url):
        return []
    folder, missing = storage.absolute(url), []
    while not storage.exists(folder):
        missing.append(folder)
        folder = posixpath.dirname(folder)
    return missing
