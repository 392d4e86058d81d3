"""Ctrl-C and SIGTERM while workers train: first a last checkpoint, then the end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cxrflow.base.errors import Stopped

log = logging.getLogger(__name__)

SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM}

SAME_SECONDS = 1.0
"""Within which a signal that ended Python's main thread is taken for the same one, which came by another way."""

_received: list[tuple[int, str]] = []
"""Number and who caught it: one Ctrl-C in a terminal reaches both Python and Java."""
_raised: list[float] = []
"""When one ended Python's main thread."""


def wanted() -> bool:
    """Whether one came since ``held`` was entered."""
    return bool(_received)


def insisted() -> bool:
    """Whether the same one of Python and Java was signalled more than once."""
    catchers = [catcher for _, catcher in _received]
    return len(catchers) > len(set(catchers))


def stopped(result: dict) -> Stopped:
    """What to raise after a training that was stopped in good order; ``result`` is what it returned."""
    return Stopped(
        _received[0][0],
        f"stopped, with a checkpoint after {result['epochs']} epochs and {result['samples']} samples "
        "of the next. The same command goes on from there",
    )


def stopped_without(why: str) -> Stopped:
    """What to raise where there was no time for a checkpoint."""
    return Stopped(
        _received[0][0],
        f"stopped without a last checkpoint: {why}. The same command goes on from the one before, if there is one",
    )


@contextmanager
def held() -> Iterator[None]:
    """Note the signals, instead of ending the process, for the length of a block; the second one ends it.

    Under spark-submit the process that a person or a scheduler signals is Java's, and it would take Python and, in local
    mode, the workers along; so Java hands its signals to Python. Nothing is done outside Python's main thread, where
    signals cannot be caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    _raised.clear()
    before = {number: signal.signal(number, _catch) for number in SIGNALS.values()}
    try:
        with _java_hands_over():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def _catch(number: int, _) -> None:
    _note(number, "python")
    if insisted() and not _just_raised():
        _raised.append(time.monotonic())
        raise Stopped(number, "stopped at once. The same command goes on from the last checkpoint, if there is one")


def _just_raised() -> bool:
    return bool(_raised) and time.monotonic() - _raised[-1] < SAME_SECONDS


def _note(number: int, catcher: str) -> None:
    if not _received:
        log.warning("stopping: a last checkpoint is written first; once more ends it at once")
    _received.append((number, catcher))


@contextmanager
def _java_hands_over() -> Iterator[None]:
    # Where Python started Java, Java ends with Python; PySpark keeps Ctrl-C from it.
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        yield
        return
    from pyspark import SparkContext
    from pyspark.java_gateway import ensure_callback_server_started

    SparkContext._ensure_initialized()  # a training by one worker opens no session
    ensure_callback_server_started(SparkContext._gateway)
    java = SparkContext._jvm.sun.misc.Signal
    before = {name: java.handle(java(name), _Handler()) for name in SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            java.handle(java(name), handler)


class _Handler:
    """``sun.misc.SignalHandler``, in Python."""

    def handle(self, caught) -> None:
        _note(caught.getNumber(), "java")
        if insisted() and not _just_raised():  # what ends Python's main thread, whatever it does
            os.kill(os.getpid(), caught.getNumber())

    class Java:
        implements = ["sun.misc.SignalHandler"]
