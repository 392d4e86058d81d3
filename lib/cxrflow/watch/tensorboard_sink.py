"""Events as TensorBoard's files in ``RUN/tensorboard``, with images as steps.

Of the writers that there are, tensorboard's own lowest layer is the lightest: its records and protocol buffers load in
a fraction of a second and without TensorFlow, which its EventFileWriter would load for nothing but its file system.
"""

from __future__ import annotations

import io
import os
import socket
import time

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from cxrflow.base import storage
from cxrflow.watch.append_file import GrowingFile
from cxrflow.watch.events import curves


class TensorBoardSink:
    """A file of its own for each driver, as TensorBoard wants it, which reads them in order of their names."""

    def __init__(self, folder: str):
        name = f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        self._file = GrowingFile(storage.join(folder, name))
        self._header = _record(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @property
    def seconds(self) -> float:
        return self._file.seconds

    def write(self, events: list[dict]) -> None:
        data = b"".join(_record(made) for event in events for made in [_to_tensorboard(event)] if made is not None)
        if data:
            self._file.write(self._header + data)
            self._header = b""


def _to_tensorboard(event: dict) -> Event | None:
    if event["event"] == "start":  # TensorBoard drops what it has of this step and later ones, which are done again
        return Event(wall_time=event["time"], step=event["images"] + 1, session_log=SessionLog(status=SessionLog.START))
    points = [Summary.Value(tag=name, simple_value=value) for name, value in curves(event).items()]
    return Event(wall_time=event["time"], step=event["images"], summary=Summary(value=points)) if points else None


def _record(event: Event) -> bytes:
    data = io.BytesIO()
    RecordWriter(data).write(event.SerializeToString())
    return data.getvalue()
