"""A queue and a thread for each sink, because a sink may be slow or fail."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

log = logging.getLogger(__name__)

MAX_PENDING = 10_000
"""Events that wait for a failing sink. If there are more, the oldest are dropped."""


class Sink(Protocol):
    """A destination of events."""

    @property
    def seconds(self) -> float:
        """Minimum time between two writes. A driver that is killed may lose the events of this time."""

    def write(self, events: list[dict]) -> None:
        """Add the events. After an exception of any kind it is called again with the same and later events."""


class EventQueue:
    """Passes events to a sink in a separate thread. It warns once if the sink fails, and keeps trying."""

    def __init__(self, name: str, open_sink: Callable[[], Sink], open_seconds: float | None = None):
        """Start the thread, which opens the sink.

        Args:
            name: of the sink, for log lines.
            open_sink: creates the sink.
            open_seconds: wait at most this long until the sink is open. Without it, a sink that cannot be opened only
                causes a warning.

        Raises:
            TimeoutError: ``open_seconds`` have passed.
            Exception: whatever ``open_sink`` raised, if ``open_seconds`` is given.
        """
        self._name, self._raises_on_open = name, open_seconds is not None
        self._queue: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._opened: Future[None] = Future()
        self._failed = False
        self._thread = threading.Thread(target=self._run, args=(open_sink,), daemon=True, name=f"watch {name}")
        self._thread.start()
        if self._raises_on_open:
            self._opened.result(open_seconds)

    def record(self, event: dict) -> None:
        """Queue an event; returns at once."""
        self._queue.put(event)

    def close(self, seconds: float) -> None:
        """Wait up to ``seconds`` until the sink has all events."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("%s: did not finish within %.0f s; the last events are missing", self._name, seconds)

    def _run(self, open_sink: Callable[[], Sink]) -> None:
        try:
            sink = open_sink()
        except Exception as error:
            self._opened.set_exception(error)
            if not self._raises_on_open:
                self._warn_once(error)
            return
        self._opened.set_result(None)
        pending: list[dict] = []
        closed = False
        while not closed:
            closed = self._collect(pending, sink.seconds)
            try:
                if pending:
                    sink.write(pending)
                pending.clear()
            except Exception as error:  # of any kind, because each store's client has its own; none may stop training
                self._warn_once(error)
                del pending[:-MAX_PENDING]

    def _collect(self, pending: list[dict], seconds: float) -> bool:
        """Wait for an event, then collect those of the next ``seconds``. Returns True after the last event."""
        event = self._queue.get()
        deadline = time.monotonic() + seconds
        while event is not None:
            pending.append(event)
            try:
                event = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return False
        return True

    def _warn_once(self, error: Exception) -> None:
        if not self._failed:
            log.warning("%s: cannot be written, training continues (%s)", self._name, one_line_error(error))
        self._failed = True


def one_line_error(error: BaseException) -> str:
    """The error as one line of at most 500 characters, without passwords in URLs."""
    text = str(error).strip().partition("\n")[0]
    return re.sub(r"://\S*@", "://", f"{type(error).__name__}: {text}" if text else type(error).__name__)[:500]
