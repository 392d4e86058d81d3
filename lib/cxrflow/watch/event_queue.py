"""The way from whoever records to a sink, which may be slow or fail."""

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

KEPT = 10_000
"""Events that wait at most where a sink fails; of more, the oldest are lost."""


class Sink(Protocol):
    """Where events go."""

    seconds: float
    """Between two writes, at least: what a driver that is killed may lose."""

    def write(self, events: list[dict]) -> None:
        """Add the events. Raises whatever it likes, and is then called again with the same events and later ones."""


class EventQueue:
    """A sink in a thread of its own. It says once that it fails, and goes on."""

    def __init__(self, name: str, open_sink: Callable[[], Sink], open_seconds: float | None = None):
        """``name``: of the sink, for the user. With ``open_seconds``, wait so long until the sink is open, and raise
        what opening it raised, or TimeoutError; without, that it cannot be opened is a failure like any other."""
        self._name, self._waited_for = name, open_seconds is not None
        self._queue: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._opened: Future[None] = Future()
        self._failed = False
        self._thread = threading.Thread(target=self._run, args=(open_sink,), daemon=True, name=f"watch {name}")
        self._thread.start()
        if self._waited_for:
            self._opened.result(open_seconds)

    def record(self, event: dict) -> None:
        self._queue.put(event)

    def close(self, seconds: float) -> None:
        """Let the sink have what there is; no longer than that."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("%s: no answer for %.0f s; what happened last is not there", self._name, seconds)

    def _run(self, open_sink: Callable[[], Sink]) -> None:
        try:
            sink = open_sink()
        except Exception as error:
            self._opened.set_exception(error)
            if not self._waited_for:
                self._say(error)
            return
        self._opened.set_result(None)
        pending: list[dict] = []
        over = False
        while not over:
            over = self._gather(pending, sink.seconds)
            try:
                if pending:
                    sink.write(pending)
                pending.clear()
            except Exception as error:  # a store's client has kinds of its own, and none of them may stop training
                self._say(error)
                del pending[:-KEPT]

    def _gather(self, pending: list[dict], seconds: float) -> bool:
        """Wait for an event and for those of the next ``seconds``; True if there will be no more."""
        event = self._queue.get()
        deadline = time.monotonic() + seconds
        while event is not None:
            pending.append(event)
            try:
                event = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return False
        return True

    def _say(self, error: Exception) -> None:
        if not self._failed:
            log.warning("%s: cannot be written, training goes on (%s)", self._name, one_line_error(error))
        self._failed = True


def one_line_error(error: BaseException) -> str:
    """The error in one line, without what may be a password in a URL."""
    text = str(error).strip().partition("\n")[0]
    return re.sub(r"://\S*@", "://", f"{type(error).__name__}: {text}" if text else type(error).__name__)[:500]
