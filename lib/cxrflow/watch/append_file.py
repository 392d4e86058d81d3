"""A file to append to, also on stores that cannot append."""

from __future__ import annotations

from cxrflow.base import storage

REWRITE_SECONDS = 10.0
REWRITE_RATE = 200_000
"""Bytes per second that rewriting a file may take. Files above 2 MB are rewritten less often."""


class GrowingFile:
    """A file that grows. Data is stored when ``write`` returns, so a process that dies later loses none of it.

    On a disk it appends. Object stores cannot append, and neither can some mounts, such as Databricks volumes. There
    the content stays in memory, and each write replaces the whole file. The caller should then wait ``seconds`` between
    writes.
    """

    def __init__(self, url: str):
        """Continue an existing file if there is one."""
        self._url = url
        self._content = None if storage.is_local(url) else self._read()
        """The whole file if the store cannot append, otherwise None."""

    @property
    def seconds(self) -> float:
        """Minimum time between two writes."""
        return 0.0 if self._content is None else max(REWRITE_SECONDS, len(self._content) / REWRITE_RATE)

    def write(self, data: bytes) -> None:
        """Append ``data`` completely or not at all. Raises OSError, or an error of the store's client."""
        if self._content is None:
            try:
                storage.append(self._url, data)
                return
            except OSError:  # the mount cannot append; if it cannot write at all, the next lines raise
                content = self._read() + data
        else:
            content = self._content + data
        storage.write_bytes(self._url, content)
        self._content = content

    def _read(self) -> bytes:
        return storage.read_bytes(self._url) if storage.exists(self._url) else b""
