"""Work on many items in a child process, so that an item that ends its process ends nothing else."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

# A file that takes longer hangs: the slowest of the largest images takes seconds.
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Crash:
    """What took the child process with it, instead of a result."""

    detail: str


def map_isolated(function: Callable[[Any], Any], items: Sequence, memory: int | None = None,
                 patience: float = PATIENCE_SECONDS) -> Iterator[Any]:
    """Yield ``function(item)`` for each item in order, computed in a forked child; a Crash for an item that ended the
    child twice (once may be the machine's fault), or that took longer than ``patience`` seconds.

    ``memory`` (bytes) is what the child may allocate beyond what it starts with; then it meets a MemoryError.
    An exception that the function raises is raised here. Results are pickled; the items are not, since a fork has them.
    """
    start, crashes = 0, 0
    while start < len(items):
        with _Child(function, items, start, memory) as child:
            for index in range(start, len(items)):
                try:
                    result = child.receive(patience)
                except EOFError:
                    crashes += 1
                    break
                start, crashes = index + 1, 0
                if isinstance(result, _Raised):
                    raise result.error
                yield result
        if crashes == 2:
            yield Crash(child.how_it_ended())
            start, crashes = start + 1, 0


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _Child:
    """A forked process that works on the items from ``start`` on and sends each result through a pipe."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence, start: int, memory: int | None):
        context = multiprocessing.get_context("fork")
        self._results, sender = context.Pipe(duplex=False)
        self._late = False
        self._process = context.Process(target=_work, args=(function, items, start, memory, self._results, sender))
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

    def receive(self, patience: float):
        """The next result. Raises EOFError where the child has ended, or hangs."""
        if not self._results.poll(patience):
            self._late = True
            raise EOFError
        return self._results.recv()

    def how_it_ended(self) -> str:
        code = self._process.exitcode
        if self._late:
            return "it gave no answer in time, twice"
        return f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit status {code}"


def _work(function: Callable[[Any], Any], items: Sequence, start: int, memory: int | None, theirs: Connection,
          results: Connection) -> None:
    theirs.close()  # otherwise this process would never notice that nobody listens
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if memory is not None:
        limit = _data_size() + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        for item in items[start:]:
            try:
                result = function(item)
            except Exception as error:
                result = _Raised(error)
            results.send(result)
    except BrokenPipeError:
        pass  # the parent wants no more


def _data_size() -> int:
    """Bytes that this process has allocated, as RLIMIT_DATA counts them."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
