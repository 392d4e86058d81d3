"""The driver's view of its workers: what each one does, which are lost, and the orders that they get."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType

from cxrflow.distributed.agent import MonitorEndpoint
from cxrflow.distributed.connection import LOST, Listener
from cxrflow.distributed.messages import (
    Action,
    Event,
    Exited,
    Failure,
    Finished,
    Heartbeat,
    Message,
    MessageError,
    Order,
    Progress,
    Registration,
    decode,
    encode,
)
from cxrflow.distributed.timeouts import Timeouts

log = logging.getLogger(__name__)

MESSAGE_BYTES = 500_000

SLOW_ONCE = ("start", "first train", "first validate")
"""Phases that take longer than any later one."""
INDEPENDENT = ("start", "feed", "checkpoint")
"""Phases in which a worker does not wait for another worker."""


@dataclass
class WorkerState:
    """What the driver knows of a worker. Times are of ``time.monotonic``."""

    rank: int
    host: str = ""
    pid: int = 0
    executor: str | None = None
    """Id of the Spark executor; None in local mode."""
    progress: Progress = field(default_factory=Progress)
    progress_since: float = 0.0
    """When the worker reported ``progress``."""
    last_heard: float = 0.0
    """When the last message of its agent came."""
    process_state: str = ""
    """The kernel's letter for the state of its process."""
    finished: bool = False
    """It has reported its end: success, or ``failure``."""
    failure: Failure | None = None
    made_step: bool = False
    """It has made a training step in this launch."""
    exited: bool = False
    """Its agent has reported the end of its process, so its machine is well."""
    disconnected: bool = False
    """Its process has ended, or the connection to its agent has."""
    ended_at: float = 0.0
    """When it finished; for a worker that never did, when its process or the connection to its agent ended."""
    last_lines: list[str] = field(default_factory=list)
    """The last lines that it wrote to standard error."""

    def __str__(self) -> str:
        return f"worker {self.rank} (process {self.pid} on {self.host})"


@dataclass(frozen=True)
class Loss:
    """A worker that cannot go on, and the reason."""

    worker: WorkerState
    reason: str
    unreachable: bool = False
    """Its machine does not answer. Spark does not know yet that the executor there is lost."""
    hung: bool = False
    """Its process runs, or is stopped, without progress."""

    def __str__(self) -> str:
        return f"{self.worker} was lost {self.worker.progress}: {self.reason}"


def find_losses(workers: list[WorkerState], now: float, hang_seconds: float, timeouts: Timeouts) -> list[Loss]:
    """The workers that are lost at the time ``now``. Of hung workers, only those that block the others.

    Workers wait for each other at every step, so one hung worker stops them all. It is the one that is stopped by a
    signal, is in a phase that needs no other worker, or is behind the others.
    """
    losses = [loss for worker in workers if (loss := _loss_of(worker, now, timeouts))]
    if losses:
        return losses
    running = [worker for worker in workers if not worker.finished and not worker.disconnected]
    late = [worker for worker in running if now - worker.progress_since > _limit(worker, hang_seconds, timeouts)]
    if not late:
        return []
    stopped = [worker for worker in late if worker.process_state in ("T", "t")]
    if stopped:
        return [
            Loss(
                worker,
                f"its process is stopped and has made no progress for {now - worker.progress_since:.0f} s",
                hung=True,
            )
            for worker in stopped
        ]
    first = min(map(_position, running))
    behind = [worker for worker in running if _position(worker) == first]
    suspects = [worker for worker in behind if worker.progress.phase in INDEPENDENT] or behind
    return [
        Loss(worker, f"it has made no progress for {now - worker.progress_since:.0f} s", hung=True)
        for worker in suspects
        if worker in late
    ]


def _loss_of(worker: WorkerState, now: float, timeouts: Timeouts) -> Loss | None:
    """How the worker is lost, whatever the others do."""
    silent = now - worker.last_heard
    if worker.disconnected:
        if worker.finished:
            return None
        return Loss(worker, "its process ended without a message; was it killed, or out of memory?")
    if silent > timeouts.agent_silence_seconds:
        reason = f"no message from it for {silent:.0f} s; is its machine or its network down?"
        return Loss(worker, reason, unreachable=True)
    return None


def follows_step(progress: Progress) -> bool:
    """Whether a worker with this progress has made a training step in its launch; ``step`` counts from 1 in each."""
    return progress.phase in ("train", "checkpoint") or (progress.step or 0) > 1


def _limit(worker: WorkerState, hang_seconds: float, timeouts: Timeouts) -> float:
    return max(hang_seconds, timeouts.start_seconds) if worker.progress.phase in SLOW_ONCE else hang_seconds


def _position(worker: WorkerState) -> tuple[int, int]:
    return worker.progress.epoch or 0, worker.progress.step or 0


class Monitor:
    """Listens to the agents of one launch. A context manager around the launch; at its end it kills the workers that
    still run."""

    def __init__(
        self,
        host: str,
        workers: int,
        hang_seconds: float,
        record: Callable[[dict], None],
        timeouts: Timeouts,
    ):
        """``host``: the driver's address as executors reach it; ``record(event)`` is called with rank 0's events."""
        self._size, self._hang_seconds, self._record, self._timeouts = workers, hang_seconds, record, timeouts
        self._listener = Listener(host, self._serve)
        self.endpoint = MonitorEndpoint(self._listener.address, timeouts)
        self._workers: dict[int, WorkerState] = {}
        self._connections: dict[int, Connection] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = threading.Event()
        self._stopping = False
        self._started = self._last_check = time.monotonic()

    def __enter__(self) -> Monitor:
        self._listener.__enter__()
        threading.Thread(target=self._send_heartbeats, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._closed.set()
        self._listener.close()
        with self._lock:
            for connection in self._connections.values():
                connection.close()

    def losses(self) -> list[Loss]:
        """The workers that are lost, with those that did not register within ``start_seconds``. Call it regularly."""
        now, start_seconds = time.monotonic(), self._timeouts.start_seconds
        with self._lock:
            # After a long gap between two calls this process itself was stopped, and could not hear anybody.
            if now - self._last_check > self._timeouts.agent_silence_seconds / 2:
                for worker in self._workers.values():
                    worker.last_heard = now
            self._last_check = now
            missing = sorted(set(range(self._size)) - self._workers.keys())
            if missing and now - self._started > start_seconds:
                return [Loss(WorkerState(rank), f"it did not start within {start_seconds:.0f} s") for rank in missing]
            return find_losses(list(self._workers.values()), now, self._hang_seconds, self._timeouts)

    def all_workers(self) -> list[WorkerState]:
        """The workers by rank, once all have registered; empty until then."""
        with self._lock:
            return [worker for _, worker in sorted(self._workers.items())] if len(self._workers) == self._size else []

    def made_step(self) -> bool:
        """Whether any worker has made a training step."""
        with self._lock:
            return any(worker.made_step for worker in self._workers.values())

    def failed_workers(self) -> list[WorkerState]:
        """The workers that have reported a failure, by rank."""
        with self._lock:
            return [worker for _, worker in sorted(self._workers.items()) if worker.failure]

    def wait_until_all_ended(self, seconds: float) -> None:
        """Wait until every registered worker has ended, for at most ``seconds``. After that, the consequences of one
        worker's end for the others are known."""
        with self._changed:
            self._changed.wait_for(lambda: all(worker.disconnected for worker in self._workers.values()), seconds)

    def stop(self) -> None:
        """Ask all workers to save a checkpoint and stop, including those that have yet to register."""
        self._stopping = True
        self._send("stop")

    def dump_stacks(self, ranks: list[int]) -> None:
        """Have these workers write the stacks of their threads to standard error."""
        self._send("dump_stacks", ranks)

    def kill(self) -> None:
        """Kill every worker."""
        self._send("kill")

    def last_lines(self, rank: int) -> list[str]:
        """The last lines that a worker wrote to standard error."""
        with self._lock:
            return self._workers[rank].last_lines if rank in self._workers else []

    def _send(self, action: Action, ranks: list[int] | None = None) -> None:
        with self._lock:
            for rank, connection in self._connections.items():
                if ranks is None or rank in ranks:
                    with suppress(*LOST):
                        connection.send_bytes(encode(Order(action=action)))

    def _send_heartbeats(self) -> None:
        while not self._closed.wait(self._timeouts.driver_heartbeat_seconds):
            self._send("heartbeat")

    def _serve(self, connection: Connection) -> None:
        """Take the messages of one agent until its connection ends."""
        try:
            registration = decode(connection.recv_bytes(MESSAGE_BYTES))
            if not isinstance(registration, Registration):
                raise MessageError(f"expected Registration first, got {type(registration).__name__}")
        except MessageError as error:
            log.error("a worker's agent cannot register: %s", error)
            return
        worker = self._register(registration, connection)
        if worker is None:
            return
        try:
            while True:
                self._handle(worker, decode(connection.recv_bytes(MESSAGE_BYTES)))
        except MessageError as error:
            log.error("%s sent an unknown message: %s", worker, error)
        except LOST:
            pass
        finally:
            with self._changed:
                worker.disconnected, worker.ended_at = True, worker.ended_at or time.monotonic()
                self._connections.pop(worker.rank, None)
                self._changed.notify_all()

    def _register(self, registration: Registration, connection: Connection) -> WorkerState | None:
        """The new worker; None if it belongs to an older launch, or Spark has started it a second time by itself."""
        now = time.monotonic()
        worker = WorkerState(
            registration.rank,
            registration.host,
            registration.pid,
            registration.executor,
            progress_since=now,
            last_heard=now,
        )
        with self._lock:
            if self._closed.is_set() or worker.rank in self._workers:
                connection.send_bytes(encode(Order(action="kill")))
                return None
            self._workers[worker.rank], self._connections[worker.rank] = worker, connection
            if self._stopping:
                connection.send_bytes(encode(Order(action="stop")))
        return worker

    def _handle(self, worker: WorkerState, message: Message) -> None:
        if isinstance(message, Event):
            self._record(message.content)
            return
        with self._lock:
            worker.last_heard = time.monotonic()
            if isinstance(message, Heartbeat | Exited):
                worker.made_step = worker.made_step or follows_step(message.progress)
            if isinstance(message, Heartbeat):
                worker.progress, worker.process_state = message.progress, message.process_state
                worker.progress_since = worker.last_heard - message.idle_seconds
            elif isinstance(message, Finished):
                worker.finished, worker.failure, worker.last_lines = True, message.failure, message.last_lines
                worker.ended_at = worker.last_heard
            elif isinstance(message, Exited):
                worker.progress, worker.last_lines, worker.exited = message.progress, message.last_lines, True
                worker.ended_at = worker.ended_at or worker.last_heard - message.seconds_ago
