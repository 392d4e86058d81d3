"""Writes events as TensorBoard files to ``RUN/tensorboard``, with fed images as steps.

It uses the lowest layer of the package tensorboard, its records and protocol buffers, which loads in a fraction of a
second. EventFileWriter would load TensorFlow only for its file system.
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
    """Each driver writes its own file. TensorBoard reads the files in the order of their names."""

    def __init__(self, folder: str):
        name = f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        self._file = GrowingFile(storage.join(folder, name))
        self._header = _record(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @property
    def seconds(self) -> float:
        """See ``Sink.seconds``."""
        return self._file.seconds

    def write(self, events: list[dict]) -> None:
        """Append the points of the events."""
        converted = filter(None, map(_to_tensorboard, events))
        data = b"".join(map(_record, converted))
        if data:
            self._file.write(self._header + data)
            self._header = b""


def _to_tensorboard(event: dict) -> Event | None:
    if event["event"] == "start":  # TensorBoard drops its points from this step on, because a resumed run repeats them
        return Event(wall_time=event["time"], step=event["images"] + 1, session_log=SessionLog(status=SessionLog.START))
    points = [Summary.Value(tag=name, simple_value=value) for name, value in curves(event).items()]
    return Event(wall_time=event["time"], step=event["images"], summary=Summary(value=points)) if points else None


def _record(event: Event) -> bytes:
    data = io.BytesIO()
    RecordWriter(data).write(event.SerializeToString())
    return data.getvalue()
