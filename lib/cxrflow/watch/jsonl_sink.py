"""Events as lines of JSON in ``RUN/events.jsonl``."""

from __future__ import annotations

import json
import math

from cxrflow.base import storage
from cxrflow.watch.append_file import GrowingFile


class JsonlSink:
    """One event a line, the oldest first; a run that goes on adds to what is there."""

    def __init__(self, url: str):
        _cut_half_line(url)
        self._file = GrowingFile(url)

    @property
    def seconds(self) -> float:
        return self._file.seconds

    def write(self, events: list[dict]) -> None:
        self._file.write("".join(json.dumps(_plain(event), allow_nan=False) + "\n" for event in events).encode())


def _plain(event: dict) -> dict:
    """The event as JSON has it, which knows no number that is none."""
    return {
        field: None if isinstance(value, float) and not math.isfinite(value) else value
        for field, value in event.items()
    }


def _cut_half_line(url: str) -> None:
    """Take away what a machine that went down in the middle of a line left of it."""
    content = storage.read_bytes(url) if storage.exists(url) else b""
    if not content.endswith(b"\n") and content:
        storage.write_bytes(url, content[: content.rfind(b"\n") + 1])
