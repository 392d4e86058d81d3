"""Shards of a remote table on a machine's own disk, shared by its workers and by later runs.

A shard's file never changes under its name, so a copy is good for ever. Below the cache's folder, ``cxrflow/KEY.shard``
is a shard's content and the CRC-32 of it (4 bytes, big-endian); KEY is made of the table's random id and the shard's URL.
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

_CRC = 4


class ShardCache:
    """Keeps up to ``max_bytes`` of shards; safe for any number of threads and processes of one machine.

    Where there is no room, the shards that were longest not used make some, but never one that was used since this
    training began: every epoch reads every shard once, and a cache that always made room would have thrown most of a
    larger table away again before its next turn. This one keeps what fits and serves it in every epoch.

    A disk that is full, read-only or otherwise out of order is warned of once, and does without keeping.
    """

    def __init__(self, folder: str, max_bytes: int, table_id: str, fetch: Callable[[str], pa.Buffer]):
        """``fetch``: reads a shard where it lies, by its URL."""
        self._folder, self._max_bytes = os.path.join(os.path.abspath(folder), "cxrflow"), max_bytes
        self._table_id, self._fetch = table_id, fetch
        self._began = time.time()
        self._keeps, self._warning = True, threading.Lock()

    def fetch(self, url: str) -> pa.Buffer:
        """The content of a shard, from the disk where a good copy is there. Raises what ``fetch`` raises."""
        key = hashlib.sha256(f"{self._table_id} {url}".encode()).hexdigest()[:32]
        path = os.path.join(self._folder, f"{key}.shard")
        found = self._read(path)
        if found is not None:
            return found
        content = self._fetch(url)
        if self._keeps:
            try:
                self._keep(path, content)
            except OSError as error:
                self._give_up(error)
        return content

    def _read(self, path: str) -> pa.Buffer | None:
        """A copy's content; None where there is none, or none that is whole."""
        try:
            with open(path, "rb") as file:
                data = pa.py_buffer(file.read())
        except OSError:  # usually that there is none; if it is the disk, keeping will fail as well, and say so
            return None
        content = data[: max(0, data.size - _CRC)]
        if data.size < _CRC or _crc(content) != data[data.size - _CRC :].to_pybytes():
            log.warning("%s: the disk did not keep what was written; read again from the table", path)
            with suppress(OSError):
                os.remove(path)
            return None
        with suppress(OSError):  # of a read-only cache
            _mark_used(path)
        return content

    def _keep(self, path: str, content: pa.Buffer) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        with self._locked():
            if os.path.exists(path) or not self._make_room(content.size + _CRC):
                return
            part = path.removesuffix(".shard") + ".part"
            try:
                with open(part, "wb") as file:
                    file.write(content)
                    file.write(_crc(content))
                _mark_used(part)
                os.replace(part, path)
            except BaseException:
                with suppress(OSError):
                    os.remove(part)
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time on this machine, so that the limit holds. The lock ends with its holder."""
        with open(os.path.join(self._folder, "lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> bool:
        """Remove copies until ``size`` bytes more fit; False, and nothing removed, where they cannot."""
        copies = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".part"):  # nobody else holds the lock, so its writer died
                    os.remove(entry.path)
                elif entry.name.endswith(".shard"):
                    copies.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        excess = sum(copy[1] for copy in copies) + size - self._max_bytes
        going = []
        for used, freed, path in sorted(copies):
            if excess <= 0 or used >= self._began:
                break
            going.append(path)
            excess -= freed
        if excess <= 0:
            for path in going:
                os.remove(path)
        return excess <= 0

    def _give_up(self, error: OSError) -> None:
        with self._warning:
            if self._keeps:
                self._keeps = False
                log.warning(
                    "--cache: %s cannot keep more shards (%s); training goes on without, at the speed of the table's "
                    "own store",
                    self._folder,
                    error,
                )


def _mark_used(path: str) -> None:
    now = time.time()  # not the kernel's own, which is a few milliseconds behind the clock that _began was read from
    os.utime(path, (now, now))


def _crc(content: pa.Buffer) -> bytes:
    return zlib.crc32(content).to_bytes(_CRC, "big")
