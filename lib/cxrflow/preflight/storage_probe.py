"""Whether this machine can read the table and write the run directory."""

from __future__ import annotations

import posixpath
import time

from cxrflow.base import storage
from cxrflow.base.manifest import read_generation, read_manifest
from cxrflow.base.shard_files import checksum, read_shard

PREFIX = ".preflight-"
OLD_SECONDS = 3600.0


def read_table(table: str, generation: int, index: int) -> dict:
    """Read the manifest and the sample IDs of one train shard, number ``index`` modulo the number of shards.

    Returns ``shard``, its path, and ``rows``. Raises ValueError if ``generation`` or the samples are not those of the
    driver's manifest, and OSError if a file cannot be read.
    """
    if (found := read_generation(table)) < generation:
        raise ValueError(
            f"expected generation {generation} of the table, as the driver sees it, got {found}; this is another table "
            "or an old copy"
        )
    manifest = read_manifest(table, generation)
    shards = manifest.of_split("train")
    shard = shards[index % len(shards)]
    url = storage.join(table, shard.path)
    ids = read_shard(url, columns=["sample_id"])["sample_id"].to_numpy()
    if len(ids) != shard.rows or checksum(ids) != shard.checksum:
        raise ValueError(f"{url}: expected the samples that the manifest lists, got others")
    return {"shard": shard.path, "rows": shard.rows}


class ProbeFile:
    """A small file in the run directory that other machines look for. It creates and removes missing folders."""

    def __init__(self, run: str, name: str):
        self._url = _probe_url(run, name)
        self._new_folders = _missing_folders(run)

    def write(self) -> None:
        """Write the file and read it back. Raises OSError if that fails."""
        content = posixpath.basename(self._url).encode()
        storage.write_bytes(self._url, content)
        if (found := storage.read_bytes(self._url)) != content:
            raise OSError(f"{self._url}: expected {content!r}, which was just written, read {found[:80]!r}")

    def remove(self) -> None:
        """Remove the file if it exists, and the folders that were created for it. Raises OSError if that fails."""
        storage.remove(self._url)
        for folder in self._new_folders:
            try:
                storage.remove_if_empty(folder)
            except OSError:  # another worker may still have its file there
                return


def probe_file_exists(run: str, name: str) -> bool:
    """Whether another machine's ProbeFile is visible from here."""
    return storage.exists(_probe_url(run, name))


def remove_old_probe_files(run: str) -> None:
    """Remove the files that preflights left when they were killed. No preflight takes an hour."""
    for url in (storage.join(run, name) for name in storage.entries(run) if name.startswith(PREFIX)):
        if time.time() - storage.modified(url) > OLD_SECONDS:
            storage.remove(url)


def _probe_url(run: str, name: str) -> str:
    return storage.join(run, f"{PREFIX}{name}")


def _missing_folders(url: str) -> list[str]:
    """The missing ones among a folder and its parents, innermost first; empty on an object store."""
    if not storage.is_local(url):
        return []
    folder, missing = storage.absolute(url), []
    while not storage.exists(folder):
        missing.append(folder)
        folder = posixpath.dirname(folder)
    return missing
