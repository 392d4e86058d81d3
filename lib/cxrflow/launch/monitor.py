"""The driver's view of its workers: where each is, which are lost, and the orders that go to them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from cxrflow.distributed.connection import LOST, Listener

SILENT_SECONDS = 18.0
"""An agent speaks every second: after so many without a word its machine is gone, or the network to it. By then it has ended
its worker (``agent.DRIVER_SILENT_SECONDS``)."""
START_SECONDS = 120.0
"""For every worker to report, which Spark starts a task for, and that a process; and for what takes long only once: loading
a framework, compiling the first step."""
WORD_SECONDS = 2.0
"""Between two signs of life of the driver."""
MESSAGE_BYTES = 500_000

ONCE = ("start", "first train", "first validate")
"""Phases that take longer than any later one."""
ALONE = ("start", "feed", "checkpoint")
"""Phases in which a worker waits for no other."""


@dataclass
class WorkerState:
    """A worker as the driver knows it. Times are of ``time.monotonic``."""

    rank: int
    host: str = ""
    pid: int = 0
    executor: str | None = None
    at: dict = field(default_factory=dict)
    """What it does: ``phase`` and, where they apply, ``epoch``, ``step`` and ``shard``."""
    since: float = 0.0
    """When it began to do that."""
    heard: float = 0.0
    state: str = ""
    """Of its process, the kernel's letter."""
    end: dict | None = None
    """Empty where it finished, or why it failed: ``why``, ``expected`` (a sentence for people), ``user`` (bad input),
    ``exchange`` (because of another worker)."""
    gone: bool = False
    """Its process has ended, or its agent cannot be reached any more."""
    ended: float = 0.0
    """When it said why it ends, or, if it never did, its process had ended or its agent was not reached any more."""
    lines: list[str] = field(default_factory=list)
    """The last that it wrote to standard error."""

    def name(self) -> str:
        return f"worker {self.rank} (process {self.pid} on {self.host})"

    def place(self) -> str:
        """Where it was, in words."""
        words = [f"in {self.at.get('phase', 'start')}"]
        if "epoch" in self.at:
            words.append(f"of epoch {self.at['epoch']}")
        if "step" in self.at:
            words.append(f"at step {self.at['step']}")
        if "shard" in self.at:
            words.append(f"with {self.at['shard']}")
        return " ".join(words)


@dataclass(frozen=True)
class Loss:
    """A worker that cannot go on, and how that showed."""

    seen: WorkerState
    why: str
    silent: bool = False
    """Its machine cannot be reached: Spark does not know yet that the executor there is lost."""
    hangs: bool = False


def find_losses(workers: list[WorkerState], now: float, hang_seconds: float) -> list[Loss]:
    """The workers that are lost at the time ``now``; of those that hang only the ones that keep the others waiting.

    Workers wait for each other at every step, so when one hangs all stand still. The one at fault is stopped, or does
    something that needs nobody else, or is behind the others.
    """
    losses = []
    for seen in workers:
        if seen.gone:
            if seen.end is None:
                losses.append(Loss(seen, "its process ended without a word; was it killed, or short of memory?"))
        elif now - seen.heard > SILENT_SECONDS:
            losses.append(
                Loss(
                    seen,
                    f"nothing was heard of it for {now - seen.heard:.0f} s; is its machine, or the "
                    "network to it, down?",
                    silent=True,
                )
            )
    running = [seen for seen in workers if seen.end is None and not seen.gone]
    late = [
        seen
        for seen in running
        if now - seen.since
        > (max(hang_seconds, START_SECONDS) if seen.at.get("phase", "start") in ONCE else hang_seconds)
    ]
    if losses or not late:
        return losses
    stopped = [seen for seen in late if seen.state in ("T", "t")]
    if stopped:
        return [
            Loss(seen, f"its process is stopped and has not moved for {now - seen.since:.0f} s", hangs=True)
            for seen in stopped
        ]
    first = min(map(_position, running))
    behind = [seen for seen in running if _position(seen) == first]
    suspects = [seen for seen in behind if seen.at.get("phase", "start") in ALONE] or behind
    return [
        Loss(seen, f"it has not moved for {now - seen.since:.0f} s", hangs=True) for seen in suspects if seen in late
    ]


def _position(seen: WorkerState) -> tuple[int, int]:
    return seen.at.get("epoch", 0), seen.at.get("step", 0)


class Monitor:
    """Listens to the agents of one launch; a context manager around it. At its end all workers are ended that
    still run."""

    def __init__(self, host: str, workers: int, hang_seconds: float, record: Callable[[dict], None]):
        """``host``: the driver's address as executors reach it; ``record(event)`` is called with rank 0's events."""
        self._workers, self._hang_seconds, self._record = workers, hang_seconds, record
        self._listener = Listener(host, self._serve)
        self.address = self._listener.address
        self._seen: dict[int, WorkerState] = {}
        self._connections: dict[int, Connection] = {}
        self._lock = threading.RLock()
        self._quiet = threading.Condition(self._lock)
        self._over = threading.Event()
        self._stopping = False
        self._started = self._looked = time.monotonic()

    def __enter__(self) -> Monitor:
        self._listener.__enter__()
        threading.Thread(target=self._speak, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.kill()
        self._over.set()
        self._listener.__exit__()
        with self._lock:
            for connection in self._connections.values():
                connection.close()

    def losses(self) -> list[Loss]:
        """The workers that are lost; those that did not report within ``START_SECONDS`` too. To be called all the
        while."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked > SILENT_SECONDS / 2:  # the driver itself was stopped, and has not heard anybody
                for seen in self._seen.values():
                    seen.heard = now
            self._looked = now
            if now - self._started > START_SECONDS and (missing := set(range(self._workers)) - self._seen.keys()):
                return [
                    Loss(WorkerState(rank), f"it did not start within {START_SECONDS:.0f} s")
                    for rank in sorted(missing)
                ]
            return find_losses(list(self._seen.values()), now, self._hang_seconds)

    def names(self) -> list[str]:
        """Of all workers, once they have reported; until then nothing."""
        with self._lock:
            return [seen.name() for _, seen in sorted(self._seen.items())] if len(self._seen) == self._workers else []

    def failures(self) -> list[WorkerState]:
        """The workers that said themselves why they fail."""
        with self._lock:
            return [seen for _, seen in sorted(self._seen.items()) if seen.end]

    def wait_until_all_ended(self, seconds: float) -> None:
        """Wait until every worker that reported has ended, or for ``seconds``: what one's end does to the others is
        heard in any order."""
        with self._quiet:
            self._quiet.wait_for(lambda: all(seen.gone for seen in self._seen.values()), seconds)

    def stop(self) -> None:
        """Ask for a last checkpoint and the end, also those who have yet to report."""
        self._stopping = True
        self._order(b"stop")

    def dump(self, ranks: list[int]) -> None:
        """Have these workers write to their logs what each of their threads does."""
        self._order(b"dump", ranks)

    def kill(self) -> None:
        """End every worker."""
        self._order(b"kill")

    def lines(self, rank: int) -> list[str]:
        """The last lines that a worker wrote to standard error."""
        with self._lock:
            return self._seen[rank].lines if rank in self._seen else []

    def _order(self, order: bytes, ranks: list[int] | None = None) -> None:
        with self._lock:
            for rank, connection in self._connections.items():
                if ranks is None or rank in ranks:
                    with suppress(*LOST):
                        connection.send_bytes(order)

    def _speak(self) -> None:
        while not self._over.wait(WORD_SECONDS):
            self._order(b"here")

    def _serve(self, connection: Connection) -> None:
        hello = json.loads(connection.recv_bytes(MESSAGE_BYTES))["hello"]
        now = time.monotonic()
        seen = WorkerState(hello["rank"], hello["host"], hello["pid"], hello["executor"], since=now, heard=now)
        with self._lock:
            if self._over.is_set() or seen.rank in self._seen:
                # Of an older launch, or started once more by Spark, which knows nothing of checkpoints.
                connection.send_bytes(b"kill")
                return
            self._seen[seen.rank], self._connections[seen.rank] = seen, connection
            if self._stopping:
                connection.send_bytes(b"stop")
        try:
            while True:
                self._take(seen, json.loads(connection.recv_bytes(MESSAGE_BYTES)))
        except LOST:
            pass
        finally:
            with self._quiet:
                seen.gone, seen.ended = True, seen.ended or time.monotonic()
                self._connections.pop(seen.rank, None)
                self._quiet.notify_all()

    def _take(self, seen: WorkerState, message: dict) -> None:
        if "event" in message:
            self._record(message["event"])
            return
        with self._lock:
            seen.heard = time.monotonic()
            if "alive" in message:
                seen.at, seen.state = message["alive"]["at"], message["alive"]["state"]
                seen.since = seen.heard - message["alive"]["idle"]
            elif "end" in message:
                seen.end, seen.lines, seen.ended = message["end"], message["lines"], seen.heard
            elif "gone" in message:
                seen.at, seen.lines = message["gone"]["at"], message["gone"]["lines"]
                seen.ended = seen.ended or seen.heard - message["gone"]["ago"]
