"""A worker's agent: a small process beside it that reports to the driver for it, and kills it on request.

The agent outlives the worker, so it can report how far a killed worker came. It is a process of its own, so it can also
report a worker that hangs or is stopped. It kills the worker when the driver orders it, or when it has not heard the
driver for a while: a worker whose driver has died, or is cut off by the network, must not write to the run directory.

``Agent`` is the worker's end. ``python -m cxrflow.distributed.agent`` is the process: its standard input is a socket
to the worker, and its argument is the number of the pipe that the worker's standard error goes through. ``messages``
lists what they send to each other.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from cxrflow.base.errors import JobError, UserError
from cxrflow.base.executor_process import executor_id, python_path
from cxrflow.base.process_tree import process_state
from cxrflow.distributed.connection import LOST, Address, open_connection
from cxrflow.distributed.messages import (
    Attach,
    Event,
    Exited,
    Failure,
    Finished,
    Heartbeat,
    Message,
    MessageError,
    Order,
    Progress,
    Ready,
    Refused,
    Registration,
    decode,
    encode,
)
from cxrflow.distributed.timeouts import Timeouts

LAST_LINES = 20
LINE_BYTES = 10_000

COLLECTIVE_ERROR = re.compile(
    r"horovod|gloo|nccl|process ?group|rendezvous|torch.distributed|connection (reset|closed|refused)|broken pipe",
    re.IGNORECASE,
)
"""Matches the error that a worker gets because another worker is gone."""


@dataclass(frozen=True)
class MonitorEndpoint:
    """Where the driver's monitor listens, and the timeouts that it shares with the agents."""

    address: Address
    timeouts: Timeouts


class Agent:
    """A worker's connection to its agent, and through it to the driver.

    As a context manager around the worker's training it reports success, or the exception that ended it.
    """

    def __init__(self, monitor: MonitorEndpoint, rank: int):
        """Start the agent's process, and send this process's standard error through it.

        Raises ConnectionError if the agent cannot reach the driver.
        """
        self._socket, agents_end = socket.socketpair()
        self._unread = b""
        stderr_read, stderr_write = os.pipe()
        with agents_end:
            # Launchers kill whole process groups, and the agent must live to report that.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cxrflow.distributed.agent", str(stderr_read)],
                stdin=agents_end.fileno(),
                pass_fds=[stderr_read],
                env={**os.environ, "PYTHONPATH": python_path()},
                start_new_session=True,
            )
        os.close(stderr_read)
        host, address = socket.gethostname(), monitor.address
        self._send(
            Attach(
                rank=rank,
                pid=os.getpid(),
                host=host,
                executor=executor_id(),
                driver_host=address.host,
                driver_port=address.port,
                driver_key=address.key.hex(),
                timeouts=dataclasses.asdict(monitor.timeouts),
            )
        )
        answer = self._read_answer()
        if not isinstance(answer, Ready):
            os.close(stderr_write)
            reason = answer.reason if isinstance(answer, Refused) else "its agent ended"
            raise ConnectionError(
                f"worker {rank} on {host} cannot reach the driver at {address.host}:{address.port} ({reason})"
            )
        os.dup2(stderr_write, 2)
        os.close(stderr_write)
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, all_threads=True)

    def _read_answer(self) -> Message | None:
        """The agent's first message; None if its process ended."""
        while b"\n" not in self._unread:
            data = self._socket.recv(LINE_BYTES)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return decode(line)

    def report_progress(
        self, phase: str, *, epoch: int | None = None, step: int | None = None, shard: str | None = None
    ) -> None:
        """Report what this worker begins to do now. The agent measures how long it takes."""
        self._send(Progress(phase=phase, epoch=epoch, step=step, shard=shard))

    def report_event(self, event: dict) -> None:
        """Send a training event (``watch.events``) to the driver."""
        self._send(Event(content=event))

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failure = None if error is None else _failure_of(error)
        self._send(Finished(failure=failure))
        if failure and failure.collective:
            # Another worker is to blame, so a stack trace of this one would only mislead.
            print(
                f"stopped: a collective operation with the other workers failed: {failure.reason.splitlines()[0]}",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)

    def stop_requested(self) -> bool:
        """Whether the driver asked this worker to save a checkpoint and stop."""
        with suppress(BlockingIOError):
            self._unread += self._socket.recv(LINE_BYTES, socket.MSG_DONTWAIT)
        return encode(Order(action="stop")) in self._unread

    def _send(self, message: Message) -> None:
        with suppress(OSError):  # the agent is gone; the driver will notice and report it
            self._socket.sendall(encode(message))


def _failure_of(error: BaseException) -> Failure:
    expected = isinstance(error, UserError | JobError)
    text = f"{type(error).__name__}: {error}"
    return Failure(
        reason=str(error) if expected else text[:LINE_BYTES],
        expected=expected,
        bad_input=isinstance(error, UserError),
        collective=not expected and bool(COLLECTIVE_ERROR.search(f"{type(error).__module__}.{text}")),
    )


class _AgentProcess:
    """The agent's process: one loop over the worker's messages, its standard error, its end, and the driver's
    orders."""

    def __init__(self, worker: socket.socket, stderr: int):
        """``stderr``: the descriptor of the pipe with the worker's standard error. Raises one of ``LOST`` if the driver
        cannot be reached."""
        self._worker, self._stderr = worker, stderr
        attach = decode(worker.makefile("rb", buffering=0).readline())
        if not isinstance(attach, Attach):
            raise MessageError(f"expected Attach first, got {type(attach).__name__}")
        self._pid = attach.pid
        self._process = os.pidfd_open(attach.pid)
        self._timeouts = Timeouts(**attach.timeouts)
        self._driver = open_connection(
            Address(attach.driver_host, attach.driver_port, bytes.fromhex(attach.driver_key))
        )
        self._registration = Registration(rank=attach.rank, pid=attach.pid, host=attach.host, executor=attach.executor)
        self._progress = Progress()
        self._driver_heard = self._progress_since = time.monotonic()
        self._partial_message = self._partial_line = b""
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    def run(self) -> None:
        self._send_driver(self._registration)
        self._worker.sendall(encode(Ready()))
        sources = selectors.DefaultSelector()
        sources.register(self._worker, selectors.EVENT_READ, self._read_worker)
        sources.register(self._stderr, selectors.EVENT_READ, self._read_stderr)
        sources.register(self._driver, selectors.EVENT_READ, self._read_driver)
        sources.register(self._process, selectors.EVENT_READ, None)
        next_heartbeat = 0.0
        while True:
            ready = [key for key, _ in sources.select(max(0.0, next_heartbeat - time.monotonic()))]
            for key in ready:
                if key.data and not key.data():
                    sources.unregister(key.fileobj)
            if any(key.fd == self._process for key in ready):
                break
            if time.monotonic() >= next_heartbeat:
                next_heartbeat = time.monotonic() + self._timeouts.agent_heartbeat_seconds
                self._tick()
        exited = time.monotonic()
        self._read_worker()
        self._drain_stderr()
        self._send_driver(
            Exited(progress=self._progress, last_lines=list(self._last_lines), seconds_ago=time.monotonic() - exited)
        )

    def _read_worker(self) -> bool:
        """False at the end of the stream, as with the other readers."""
        try:
            data = self._worker.recv(2**20, socket.MSG_DONTWAIT)
        except OSError:
            return False
        *lines, self._partial_message = (self._partial_message + data).split(b"\n")
        for message in map(decode, lines):
            if isinstance(message, Progress):
                self._progress, self._progress_since = message, time.monotonic()
            elif isinstance(message, Finished):
                self._send_driver(dataclasses.replace(message, last_lines=list(self._last_lines)))
            else:
                self._send_driver(message)
        return bool(data)

    def _read_stderr(self) -> bool:
        data = os.read(self._stderr, 2**16)
        with suppress(OSError):
            os.write(2, data)
        *lines, self._partial_line = (self._partial_line + data)[-LINE_BYTES * LAST_LINES :].split(b"\n")
        self._last_lines.extend(line[:LINE_BYTES].decode(errors="replace") for line in lines if line.strip())
        return bool(data)

    def _drain_stderr(self) -> None:
        deadline = time.monotonic() + self._timeouts.last_lines_seconds
        with selectors.DefaultSelector() as source:
            source.register(self._stderr, selectors.EVENT_READ)
            while source.select(max(0.0, deadline - time.monotonic())) and self._read_stderr():
                pass

    def _read_driver(self) -> bool:
        try:
            order = decode(self._driver.recv_bytes(LINE_BYTES))
        except LOST:
            self._signal(signal.SIGKILL)
            return False
        except MessageError as error:
            os.write(2, f"the driver sent an order that this agent does not know: {error}\n".encode())
            self._signal(signal.SIGKILL)
            return False
        self._driver_heard = time.monotonic()
        action = order.action if isinstance(order, Order) else "heartbeat"
        if action == "stop":
            with suppress(OSError):
                self._worker.sendall(encode(order))
        elif action == "kill":
            self._signal(signal.SIGKILL)
        elif action == "dump_stacks":
            self._signal(signal.SIGUSR1)
        return True

    def _tick(self) -> None:
        if time.monotonic() - self._driver_heard > self._timeouts.driver_silence_seconds:
            self._signal(signal.SIGKILL)
        idle = time.monotonic() - self._progress_since
        self._send_driver(Heartbeat(progress=self._progress, idle_seconds=idle, process_state=process_state(self._pid)))

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    def _send_driver(self, message: Message) -> None:
        with suppress(*LOST):  # the next read fails as well, and that kills the worker
            self._driver.send_bytes(encode(message))


def main() -> None:
    """Run an agent's process."""
    # Ctrl-C in a terminal and a launcher's SIGTERM are meant for the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker = socket.socket(fileno=0)
    try:
        agent = _AgentProcess(worker, int(sys.argv[1]))
    except LOST as error:
        worker.sendall(encode(Refused(reason=f"{type(error).__name__}: {error}")))
        return
    agent.run()


if __name__ == "__main__":
    main()
