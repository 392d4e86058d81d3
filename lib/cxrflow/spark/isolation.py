"""Work on many items in a child process, so that an item that ends its process ends nothing else."""

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

# A file that takes longer hangs: the slowest of the largest images takes seconds.
PATIENCE_SECONDS = 300.0
# How often a child that waits for its parent looks whether there still is one.
_PARENT_SECONDS = 5.0
# A message holds results of so much work, of so many items and with so many bytes of arrays, at most.
GROUP_SECONDS = 0.05
MOST_RESULTS = 64
SLOT_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Crash:
    """What took the child process with it, instead of a result."""

    detail: str


def map_isolated(
    function: Callable[[Any], Any],
    items: Sequence,
    memory: int | None = None,
    largest_array: int = 0,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[Any]:
    """Yield ``function(item)`` for each item in order, computed in a forked child; a Crash for an item that ended the
    child twice when it was alone (once may be the machine's fault), or that took longer than ``patience`` seconds.

    Results are pickled; the items are not, since a fork has them. A NumPy array of up to ``largest_array`` bytes in a
    result is not copied on the way: it lies in memory that both processes share, and **is valid until the next result is
    asked for**. ``memory`` (bytes) is what the child may allocate beyond what it starts with; then it meets a
    MemoryError. An exception that the function raises is raised here.
    """
    start = crashes = 0
    alone_until = 0  # results of the items before this one come one by one, so that it shows which item ends the child
    shared = _Shared(largest_array)
    while start < len(items):
        with _Child(function, items, start, alone_until, memory, shared) as child:
            try:
                while start < len(items):
                    for result in child.receive(patience):
                        start, crashes = start + 1, 0
                        if isinstance(result, _Raised):
                            raise result.error
                        yield result
                    child.done_with_results()
            except _Ended:
                if start < alone_until:
                    crashes += 1
                else:
                    alone_until = start + shared.most
        if crashes == 2:
            yield Crash(child.how_it_ended())
            start, crashes = start + 1, 0


class _Ended(Exception):
    """The child is gone, or hangs."""


class _Shared:
    """Memory that a child writes arrays into and its parent reads them from, one slot a message, in turn."""

    SLOTS = 4

    def __init__(self, largest_array: int):
        self.most = max(1, min(MOST_RESULTS, SLOT_BYTES // max(1, largest_array)))
        """Results in a message, at most."""
        self._bytes = self.most * largest_array
        self._memory = memoryview(mmap.mmap(-1, max(1, self._bytes * self.SLOTS)))

    def put(self, number: int, buffers: list[pickle.PickleBuffer]) -> list[tuple[int, int]] | None:
        """(start, end) of each buffer in the slot of the message ``number``; None where they do not fit."""
        raw = [buffer.raw() for buffer in buffers]
        if sum(view.nbytes for view in raw) > self._bytes:
            return None
        places, start = [], (number % self.SLOTS) * self._bytes
        for view in raw:
            self._memory[start : start + view.nbytes] = view
            places.append((start, start + view.nbytes))
            start += view.nbytes
        return places

    def get(self, places: list[tuple[int, int]]) -> list[memoryview]:
        return [self._memory[start:end] for start, end in places]


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _Child:
    """A forked process that works on the items from ``start`` on and sends their results through a pipe."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Sequence,
        start: int,
        alone_until: int,
        memory: int | None,
        shared: _Shared,
    ):
        context = multiprocessing.get_context("fork")
        self._results, sender = context.Pipe(duplex=False)
        self._shared, self._free = shared, context.Semaphore(shared.SLOTS)
        self._late = False
        self._process = context.Process(
            target=_work, args=(function, items, start, alone_until, memory, shared, self._free, self._results, sender)
        )
        self._process.start()
        sender.close()  # so that the child's end is seen as the end of the pipe

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_) -> None:
        self._results.close()
        if not self._late:
            self._process.join(1.0)
        if self._process.is_alive():  # stuck, or its results are no longer wanted
            self._process.kill()
            self._process.join()

    def receive(self, patience: float) -> list:
        """The next results. Raises _Ended where the child has ended, or hangs."""
        if not self._results.poll(patience):
            self._late = True
            raise _Ended
        try:
            content, places = self._results.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message
            raise _Ended from None
        return pickle.loads(content, buffers=self._shared.get(places))

    def done_with_results(self) -> None:
        """Let the child use the slot of the last results again."""
        self._free.release()

    def how_it_ended(self) -> str:
        code = self._process.exitcode
        if self._late:
            return "it gave no answer in time, twice"
        return f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit status {code}"


def _work(
    function: Callable[[Any], Any],
    items: Sequence,
    start: int,
    alone_until: int,
    memory: int | None,
    shared: _Shared,
    free: Semaphore,
    theirs: Connection,
    results: Connection,
) -> None:
    parent = os.getppid()
    theirs.close()  # otherwise this process would never notice that nobody listens
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if memory is not None:
        limit = _data_size() + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        for number, group in enumerate(_groups(function, items, start, alone_until, shared.most)):
            while not free.acquire(timeout=_PARENT_SECONDS):
                if os.getppid() != parent:  # it died, and nobody will ever take the results
                    return
            buffers: list[pickle.PickleBuffer] = []
            content = pickle.dumps(group, protocol=5, buffer_callback=buffers.append)
            places = shared.put(number, buffers)
            results.send((content, places) if places is not None else (pickle.dumps(group, protocol=5), []))
    except BrokenPipeError:
        pass  # the parent wants no more


def _groups(function: Callable[[Any], Any], items: Sequence, start: int, alone_until: int, most: int) -> Iterator[list]:
    """The results from ``start`` on, those that are quick several together: a message costs as much as a small image."""
    group: list = []
    begun = time.monotonic()
    for number in range(start, len(items)):
        try:
            group.append(function(items[number]))
        except Exception as error:
            group.append(_Raised(error))
        if (
            number < alone_until
            or len(group) == most
            or time.monotonic() - begun > GROUP_SECONDS
            or number == len(items) - 1
        ):
            yield group
            group, begun = [], time.monotonic()


def _data_size() -> int:
    """Bytes that this process has allocated, as RLIMIT_DATA counts them."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
