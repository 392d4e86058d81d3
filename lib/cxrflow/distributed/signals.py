"""Ctrl-C and SIGTERM during training: the first saves a checkpoint and stops, the second stops at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cxrflow.base.errors import Stopped

log = logging.getLogger(__name__)

SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM}

SAME_SIGNAL_SECONDS = 1.0
"""One Ctrl-C may reach Python's main thread twice, directly and through Java. After one has raised in the main
thread, a second one within this time counts as the same."""

_received: list[tuple[int, str]] = []
"""Signal number and receiver (python or java) of each: one Ctrl-C in a terminal reaches both."""
_raised_at: list[float] = []
"""When a signal raised in Python's main thread; of ``time.monotonic``."""


def stop_requested() -> bool:
    """Whether a signal has come since ``catch_stop_signals`` was entered."""
    return bool(_received)


def stop_repeated() -> bool:
    """Whether Python or Java alone has received more than one signal."""
    receivers = [receiver for _, receiver in _received]
    return len(receivers) > len(set(receivers))


def stopped_with_checkpoint(result: dict) -> Stopped:
    """The exception for a training that has saved a checkpoint and stopped; ``result`` is what it returned."""
    return Stopped(
        _received[0][0],
        f"stopped, with a checkpoint after {result['epochs']} epochs and {result['samples']} samples "
        "of the next. Run the same command to resume from it",
    )


def stopped_without_checkpoint(reason: str) -> Stopped:
    """The exception for a training that could not save a checkpoint before it stopped."""
    return Stopped(
        _received[0][0],
        f"stopped without a last checkpoint: {reason}. Run the same command to resume from the previous checkpoint, "
        "if there is one",
    )


@contextmanager
def catch_stop_signals() -> Iterator[None]:
    """Within the block, the first Ctrl-C or SIGTERM only sets ``stop_requested``; the second raises Stopped.

    Under spark-submit, people and schedulers signal the Java process. It would end at once and take Python and, in
    local mode, the workers along, so here Java passes its signals to Python. Outside Python's main thread the block
    changes nothing, because Python handles signals only there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    _raised_at.clear()
    before = {number: signal.signal(number, _handle) for number in SIGNALS.values()}
    try:
        with _forward_java_signals():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def _handle(number: int, frame: FrameType | None) -> None:
    _note(number, "python")
    if stop_repeated() and not _just_raised():
        _raised_at.append(time.monotonic())
        raise Stopped(
            number, "stopped at once. Run the same command to resume from the last checkpoint, if there is one"
        )


def _just_raised() -> bool:
    return bool(_raised_at) and time.monotonic() - _raised_at[-1] < SAME_SIGNAL_SECONDS


def _note(number: int, receiver: str) -> None:
    if not _received:
        log.warning("stopping after a last checkpoint; press Ctrl-C or send SIGTERM again to stop at once")
    _received.append((number, receiver))


@contextmanager
def _forward_java_signals() -> Iterator[None]:
    # When Python has started Java, Java ends with Python and PySpark shields it from Ctrl-C.
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        yield
        return
    from pyspark import SparkContext
    from pyspark.java_gateway import ensure_callback_server_started

    SparkContext._ensure_initialized()  # the local launcher opens no session
    ensure_callback_server_started(SparkContext._gateway)
    java = SparkContext._jvm.sun.misc.Signal
    before = {name: java.handle(java(name), _JavaSignalHandler()) for name in SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            java.handle(java(name), handler)


class _JavaSignalHandler:
    """``sun.misc.SignalHandler``, in Python."""

    def handle(self, caught: Any) -> None:
        """Called by Java with a ``sun.misc.Signal``, in a thread of its own."""
        _note(caught.getNumber(), "java")
        if stop_repeated() and not _just_raised():
            os.kill(os.getpid(), caught.getNumber())  # raises in Python's main thread

    class Java:
        implements = ["sun.misc.SignalHandler"]  # noqa: RUF012, py4j reads it so
