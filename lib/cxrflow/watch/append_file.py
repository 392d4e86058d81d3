"""A file that grows, on stores that can append and on those that cannot."""

from __future__ import annotations

from cxrflow.base import storage

REWRITE_SECONDS = 10.0
REWRITE_RATE = 200_000
"""Bytes a second that writing a whole file again and again may take: one of more than 2 MB is written less often."""


class GrowingFile:
    """What ``write`` was given is in the file when it returns; a process that dies afterwards has lost none of it.

    On a disk it appends. Object stores cannot, nor can some mounts that look like disks, such as Databricks' volumes:
    there the content is kept in memory and the whole file written again, which whoever writes does no more often than
    every ``seconds``.
    """

    def __init__(self, url: str):
        """Goes on with the file if there is one."""
        self._url = url
        self._content = None if storage.is_local(url) else self._read()
        """All of the file, where it cannot be appended to."""

    @property
    def seconds(self) -> float:
        """Between two writes, at least."""
        return 0.0 if self._content is None else max(REWRITE_SECONDS, len(self._content) / REWRITE_RATE)

    def write(self, data: bytes) -> None:
        """Add ``data``, all of it or nothing. Raises OSError, or what the store's client raises."""
        if self._content is None:
            try:
                storage.append(self._url, data)
                return
            except OSError:  # the mount cannot append; where it cannot write at all, this raises what the next lines do
                content = self._read() + data
        else:
            content = self._content + data
        storage.write_bytes(self._url, content)
        self._content = content

    def _read(self) -> bytes:
        return storage.read_bytes(self._url) if storage.exists(self._url) else b""
