"""Writes events as lines of JSON to ``RUN/events.jsonl``."""

from __future__ import annotations

import json
import math

from cxrflow.base import storage
from cxrflow.watch.append_file import GrowingFile


class JsonlSink:
    """One event per line, the oldest first. A resumed run appends to the file."""

    def __init__(self, url: str):
        _remove_partial_line(url)
        self._file = GrowingFile(url)

    @property
    def seconds(self) -> float:
        """See ``Sink.seconds``."""
        return self._file.seconds

    def write(self, events: list[dict]) -> None:
        """Append the events."""
        self._file.write("".join(json.dumps(_plain(event), allow_nan=False) + "\n" for event in events).encode())


def _plain(event: dict) -> dict:
    """The event with null in place of NaN and infinity, which JSON lacks."""
    return {
        field: None if isinstance(value, float) and not math.isfinite(value) else value
        for field, value in event.items()
    }


def _remove_partial_line(url: str) -> None:
    """Remove the last line if it has no end, because the machine stopped while writing it."""
    content = storage.read_bytes(url) if storage.exists(url) else b""
    if not content.endswith(b"\n") and content:
        storage.write_bytes(url, content[: content.rfind(b"\n") + 1])
