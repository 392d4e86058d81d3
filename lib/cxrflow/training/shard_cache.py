"""A cache of a remote table's shards on a machine's own disk, shared by its workers and by later runs.

A shard with a given name never changes, so a copy never becomes stale. In the cache's folder, ``cxrflow/KEY.shard`` is
a shard's content followed by its CRC-32 (4 bytes, big-endian). KEY is a hash of the table's id and the shard's URL.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa

log = logging.getLogger(__name__)

CRC_BYTES = 4


class ShardCache:
    """Stores up to ``max_bytes`` of shards. Safe for any number of threads and processes of one machine.

    A full cache evicts the least recently used shards, but none that was used since this cache object was made. Every
    epoch reads every shard once. If the table is larger than the cache, plain LRU eviction would remove most shards
    before their next use. This cache stores what fits and serves it in every epoch.

    If the disk is full, read-only or fails, the cache logs one warning and stores nothing more.
    """

    def __init__(self, folder: str, max_bytes: int, table_id: str, fetch: Callable[[str], pa.Buffer]):
        """``fetch`` reads a shard from the table, given its URL."""
        self._folder, self._max_bytes = os.path.join(os.path.abspath(folder), "cxrflow"), max_bytes
        self._table_id, self._fetch = table_id, fetch
        self._started = time.time()
        self._can_store, self._warning_lock = True, threading.Lock()

    def fetch(self, url: str) -> pa.Buffer:
        """A shard's content: from the cache if it has an intact copy, otherwise from the table. Raises what the
        constructor's ``fetch`` raises."""
        key = hashlib.sha256(f"{self._table_id} {url}".encode()).hexdigest()[:32]
        path = os.path.join(self._folder, f"{key}.shard")
        copy = self._read(path)
        if copy is not None:
            return copy
        content = self._fetch(url)
        if self._can_store:
            try:
                self._store(path, content)
            except OSError as error:
                self._stop_storing(error)
        return content

    def _read(self, path: str) -> pa.Buffer | None:
        """A copy's content, or None if there is no intact copy."""
        try:
            with open(path, "rb") as file:
                data = pa.py_buffer(file.read())
        except OSError:  # usually there is no copy; if the disk fails, storing fails as well and logs the reason
            return None
        content = data[: max(0, data.size - CRC_BYTES)]
        if data.size < CRC_BYTES or _crc(content) != data[data.size - CRC_BYTES :].to_pybytes():
            log.warning("%s: the cached shard is damaged; reading it again from the table", path)
            with suppress(OSError):
                os.remove(path)
            return None
        with suppress(OSError):  # the cache may be read-only
            _mark_used(path)
        return content

    def _store(self, path: str, content: pa.Buffer) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        with self._locked():
            if os.path.exists(path) or not self._make_room(content.size + CRC_BYTES):
                return
            temporary = path.removesuffix(".shard") + ".part"
            try:
                with open(temporary, "wb") as file:
                    file.write(content)
                    file.write(_crc(content))
                _mark_used(temporary)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.remove(temporary)
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process of this machine writes at a time, so that the size limit is exact. A process that dies
        releases the lock."""
        with open(os.path.join(self._folder, "lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> bool:
        """Evict copies until ``size`` more bytes fit. Returns False, and evicts nothing, if they cannot fit."""
        copies = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".part"):  # we hold the lock, so its writer has died
                    os.remove(entry.path)
                elif entry.name.endswith(".shard"):
                    copies.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        excess = sum(copy_bytes for _, copy_bytes, _ in copies) + size - self._max_bytes
        evicted = []
        for last_used, copy_bytes, path in sorted(copies):
            if excess <= 0 or last_used >= self._started:
                break
            evicted.append(path)
            excess -= copy_bytes
        if excess <= 0:
            for path in evicted:
                os.remove(path)
        return excess <= 0

    def _stop_storing(self, error: OSError) -> None:
        with self._warning_lock:
            if self._can_store:
                self._can_store = False
                log.warning(
                    "--cache: cannot store more shards in %s (%s); training continues and reads the others from the "
                    "table in every epoch",
                    self._folder,
                    error,
                )


def _mark_used(path: str) -> None:
    # The kernel's own time stamps are a few milliseconds behind the clock that _started was read from.
    now = time.time()
    os.utime(path, (now, now))


def _crc(content: pa.Buffer) -> bytes:
    return zlib.crc32(content).to_bytes(CRC_BYTES, "big")
