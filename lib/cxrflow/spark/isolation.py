"""Process items in a child process, so that an item that crashes its process affects no other item."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Semaphore
from typing import Any

from cxrflow.base.freed_memory import keep_freed_memory
from cxrflow.base.process_tree import data_bytes

# The slowest of the largest images takes seconds, so an item that takes longer than this hangs.
TIMEOUT_SECONDS = 300.0
# How often a child that waits for its parent checks whether the parent is alive.
_PARENT_CHECK_SECONDS = 5.0
# Limits of one message from the child: computing time, number of results and bytes of arrays.
GROUP_SECONDS = 0.05
MAX_RESULTS = 64
SLOT_BYTES = 4 * 2**20
# Freed bytes that a child keeps. Large images are allocated and freed over and over.
KEPT_MEMORY = 128 * 2**20


@dataclass(frozen=True)
class Crash:
    """In place of a result: the item crashed its process or timed out."""

    detail: str


def map_isolated(
    function: Callable[[Any], Any],
    items: Sequence,
    memory: int | None = None,
    largest_array: int = 0,
    timeout: float = TIMEOUT_SECONDS,
) -> Iterator[Any]:
    """Yield ``function(item)`` for each item in order, computed in a forked child.

    Yields a Crash for an item that crashed the child, or took longer than ``timeout`` seconds, in two attempts on its
    own: a single failure may be the machine's fault. An exception of the function is raised here.

    Results are pickled. Items are not, because a forked child has them. A NumPy array of up to ``largest_array`` bytes
    in a result is passed in shared memory without a copy, and **is valid only until the next result is requested**.
    ``memory`` limits, in bytes, what the child may allocate beyond its initial size; more raises a MemoryError in it.
    """
    start = crashes = 0
    alone_until = 0  # items before this one are sent one by one, to find out which of them crashes the child
    shared = _Shared(largest_array)
    while start < len(items):
        batch = _Batch(
            function=function, items=items, start=start, alone_until=alone_until, memory=memory, shared=shared
        )
        with _Child(batch) as child:
            try:
                while start < len(items):
                    for result in child.receive(timeout):
                        start, crashes = start + 1, 0
                        if isinstance(result, _Raised):
                            raise result.error
                        yield result
                    child.done_with_results()
            except _ChildLost:
                if start < alone_until:
                    crashes += 1
                else:
                    alone_until = start + shared.max_results
        if crashes == 2:
            yield Crash(child.exit_detail())
            start, crashes = start + 1, 0


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What a child computes, and how it answers."""

    function: Callable[[Any], Any]
    items: Sequence
    start: int
    """The first item that has no result yet."""
    alone_until: int
    """Items before this one are sent one by one."""
    memory: int | None
    """Most bytes that the child may allocate beyond its initial size."""
    shared: _Shared


class _ChildLost(Exception):
    """The child has ended, or hangs."""


class _Shared:
    """Shared memory for arrays, written by the child and read by the parent. Messages use its slots in turn."""

    SLOTS = 4

    def __init__(self, largest_array: int):
        self.max_results = max(1, min(MAX_RESULTS, SLOT_BYTES // max(1, largest_array)))
        """Most results in one message."""
        self._bytes = self.max_results * largest_array
        self._memory = memoryview(mmap.mmap(-1, max(1, self._bytes * self.SLOTS)))

    def put(self, number: int, buffers: list[pickle.PickleBuffer]) -> list[tuple[int, int]] | None:
        """Copy the buffers into the slot of message ``number``; returns their (start, end), None if they do not fit."""
        raw = [buffer.raw() for buffer in buffers]
        if sum(view.nbytes for view in raw) > self._bytes:
            return None
        ranges, start = [], (number % self.SLOTS) * self._bytes
        for view in raw:
            self._memory[start : start + view.nbytes] = view
            ranges.append((start, start + view.nbytes))
            start += view.nbytes
        return ranges

    def get(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        """Views of the buffers that ``put`` stored, without a copy."""
        return [self._memory[start:end] for start, end in ranges]


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _Child:
    """A forked process that processes a batch and sends the results through a pipe."""

    def __init__(self, batch: _Batch):
        context = multiprocessing.get_context("fork")
        self._results, sender = context.Pipe(duplex=False)
        self._shared, self._free = batch.shared, context.Semaphore(batch.shared.SLOTS)
        self._timed_out = False
        self._process = context.Process(
            target=_run_child,
            args=(batch, self._free, self._results, sender),
        )
        self._process.start()
        sender.close()  # otherwise the pipe would not report the end of the child

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._results.close()
        if not self._timed_out:
            self._process.join(1.0)
        if self._process.is_alive():  # it hangs, or the caller stopped early
            self._process.kill()
            self._process.join()

    def receive(self, timeout: float) -> list:
        """The next results. Raises _ChildLost if the child has ended, or sends nothing for ``timeout`` seconds."""
        if not self._results.poll(timeout):
            self._timed_out = True
            raise _ChildLost
        try:
            content, ranges = self._results.recv()
        except (EOFError, OSError):  # OSError: it ended in the middle of a message
            raise _ChildLost from None
        return pickle.loads(content, buffers=self._shared.get(ranges))

    def done_with_results(self) -> None:
        """Let the child overwrite the slot of the last results."""
        self._free.release()

    def exit_detail(self) -> str:
        """How the process ended, for people."""
        code = self._process.exitcode
        if self._timed_out:
            return "timed out twice"
        return f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit status {code}"


def _run_child(batch: _Batch, free: Semaphore, receiver: Connection, results: Connection) -> None:
    parent = os.getppid()
    receiver.close()  # otherwise this process would not notice that the parent closed the pipe
    for interrupt in (signal.SIGINT, signal.SIGTERM):
        signal.signal(interrupt, signal.SIG_DFL)
    if batch.memory is not None:
        limit = data_bytes() + batch.memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    keep_freed_memory(KEPT_MEMORY)
    try:
        for number, group in enumerate(_groups(batch)):
            while not free.acquire(timeout=_PARENT_CHECK_SECONDS):
                if os.getppid() != parent:  # the parent died, so nobody will read the results
                    return
            buffers: list[pickle.PickleBuffer] = []
            content = pickle.dumps(group, protocol=5, buffer_callback=buffers.append)
            ranges = batch.shared.put(number, buffers)
            results.send((content, ranges) if ranges is not None else (pickle.dumps(group, protocol=5), []))
    except BrokenPipeError:
        pass  # the parent stopped early


def _groups(batch: _Batch) -> Iterator[list]:
    """The results of a batch, in groups for one message each: a message takes as long as a small image."""
    group: list = []
    started = time.monotonic()
    for number in range(batch.start, len(batch.items)):
        try:
            group.append(batch.function(batch.items[number]))
        except Exception as error:
            group.append(_Raised(error))
        if (
            number < batch.alone_until
            or len(group) == batch.shared.max_results
            or time.monotonic() - started > GROUP_SECONDS
            or number == len(batch.items) - 1
        ):
            yield group
            group, started = [], time.monotonic()
