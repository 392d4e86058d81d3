"""Changes that cxrflow makes to Horovod at run time, all for version 0.28.1, the last release.

Horovod assumes that it owns the process: its main thread, its signals and its exit. Here it runs in a thread of a
program that supervises several launches. ``tests/test_horovod_patches.py`` has a test for each change that fails as
soon as Horovod no longer needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HOROVOD_VERSION = "0.28.1"

_aborts: list[threading.Event] = []
"""Of the launches inside ``patched_horovod``, the newest last."""
_originals: list[tuple[Any, str, Any]] = []
_lock = threading.Lock()


@contextmanager
def patched_horovod(abort: threading.Event) -> Iterator[None]:
    """Within the block, Horovod can run in a thread, and setting ``abort`` ends its workers.

    Blocks may overlap, because a launch that waits for a lost machine is abandoned and may end much later. Horovod
    gets its own behaviour back after the last block.
    """
    with _lock:
        if not _aborts:
            for owner, name, replacement in _replacements():
                _originals.append((owner, name, getattr(owner, name)))
                setattr(owner, name, replacement)
        _aborts.append(abort)
    try:
        yield
    finally:
        with _lock:
            _aborts.remove(abort)
            while _originals and not _aborts:
                setattr(*_originals.pop())


def _replacements() -> list[tuple[Any, str, Callable]]:
    """Owner, attribute and new value of each change."""
    import horovod.runner.gloo_run as gloo_run
    import horovod.runner.util.threads as threads
    import horovod.spark.runner as runner

    return [
        (gloo_run, "register_shutdown_event", _newest_abort),
        (threads, "in_thread", _always_daemon(threads.in_thread)),
        (runner, "in_thread", _always_daemon(threads.in_thread)),
        (threading, "excepthook", _without_spark_thread(threading.excepthook)),
    ]


def _newest_abort() -> threading.Event:
    """In place of ``register_shutdown_event``, which installs handlers for SIGINT and SIGTERM.

    Python allows that in the main thread only, and cxrflow handles both signals itself. The event that it returns is
    all that Horovod needs. https://github.com/horovod/horovod/issues/2563
    """
    return _aborts[-1]


def _always_daemon(in_thread: Callable) -> Callable:
    """In place of ``in_thread``, whose threads for Spark and for the workers are not daemons.

    They may wait for ever for a lost machine, and Python would not exit before they end. No upstream issue was found.
    """

    def in_daemon_thread(
        target: Callable, args: tuple = (), name: str | None = None, daemon: bool = True, silent: bool = False
    ) -> threading.Thread:
        return in_thread(target, args, name, True, silent)

    return in_daemon_thread


def _without_spark_thread(excepthook: Callable) -> Callable:
    """In place of ``threading.excepthook``: silent for the thread that runs Horovod's Spark job.

    When the job is cancelled, that thread raises again what Spark raised, and Python prints a stack trace of Python and
    Java for it. cxrflow reports the cause itself. No upstream issue was found.
    """

    def hook(failed: Any) -> None:
        if not (failed.thread and "run_spark" in failed.thread.name):
            excepthook(failed)

    return hook


def advertise_driver_at(host: str) -> None:
    """Give Horovod's workers the driver's address from Spark (``spark.driver.host``), for the rest of this process.

    Horovod advertises the driver's address on the interface whose name all workers share. The driver may have no
    interface of that name; and if all workers are on one other machine, they share its loopback interface.
    https://github.com/horovod/horovod/issues/1212 and https://github.com/horovod/horovod/issues/2547
    """
    from horovod.spark.driver.driver_service import SparkDriverService

    def addresses(service: Any) -> dict[str, list[tuple[str, int]]]:
        shared = {name for found in list(service._task_addresses_for_tasks.values()) for name in found}
        return {name: [(host, service.get_port())] for name in shared or {"driver"}}

    SparkDriverService.addresses = addresses
