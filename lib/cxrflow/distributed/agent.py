"""A small process beside each worker: it tells the driver where the worker is, keeps its last words, and ends it.

It outlives the worker, so it can say how far a worker came that was killed; and it is not the worker, so it also speaks
for one that hangs or is stopped. It ends the worker where the driver says so, or has not been heard for a while: a
worker whose driver died, or lies on the other side of a cut network, must not go on writing to the run directory.

``Agent`` is the worker's end of it. ``python -m cxrflow.distributed.agent`` is the process: standard input is a socket to the
worker, over which both send lines of JSON, and the first line from the worker says who it is and where the driver is.
"""

from __future__ import annotations

import faulthandler
import json
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

from cxrflow.base.errors import JobError, UserError
from cxrflow.base.executor_process import executor_id, python_path
from cxrflow.distributed.connection import LOST, Address, open_connection

TICK_SECONDS = 1.0
DRIVER_SILENT_SECONDS = 12.0
"""Without a word from the driver, after which a worker is ended. Shorter than the driver waits for an agent before it starts
others (``monitor.SILENT_SECONDS``), so that two never write to one run directory."""
LAST_LINES = 20
LINE_BYTES = 10_000
DRAIN_SECONDS = 1.0
"""For a dead worker's last words, whose pipe a child of it may hold open."""


EXCHANGE = re.compile(
    r"horovod|gloo|nccl|process ?group|rendezvous|torch.distributed|connection (reset|closed|refused)|broken pipe",
    re.IGNORECASE,
)
"""In the words of an error that shows in one worker because another one is gone."""


class Agent:
    """A worker's connection to its agent, and through that to the driver; a context manager around its work, whose
    failure it reports."""

    def __init__(self, address: Address, rank: int):
        """Start the process. What this process writes to standard error passes through it from now on.

        Raises ConnectionError where it cannot reach the driver.
        """
        self._socket, theirs = socket.socketpair()
        self._unread = b""
        words, into = os.pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cxrflow.distributed.agent", str(words)],
                stdin=theirs,
                pass_fds=[words],
                env={**os.environ, "PYTHONPATH": python_path()},
                start_new_session=True,
            )  # launchers end whole groups, and it has something to say then
        os.close(words)
        self._send(
            {
                "rank": rank,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "executor": executor_id(),
                "driver": [address.host, address.port, address.key.hex()],
            }
        )
        ready = self._socket.recv(LINE_BYTES)
        if not ready.startswith(b"ready\n"):
            os.close(into)
            raise ConnectionError(
                f"worker {rank} on {socket.gethostname()} cannot reach the driver at "
                f"{address.host}:{address.port} ({ready.decode().strip() or 'its agent ended'})"
            )
        self._unread = ready.removeprefix(b"ready\n")
        os.dup2(into, 2)
        os.close(into)
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, all_threads=True)

    def report_progress(self, phase: str, **where) -> None:
        """Say what this worker begins to do now; the driver measures how long it takes."""
        self._send({"at": {"phase": phase, **where}})

    def report_event(self, event: dict) -> None:
        """Send an event to the driver."""
        self._send({"event": event})

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind, error: BaseException | None, _) -> None:
        failure = {} if error is None else _describe(error)
        self._send({"end": failure})
        if failure.get("exchange"):
            # Of a worker whose peer is gone a stack trace would only hide whose fault it was.
            print(
                f"stopped, since the exchange with the other workers broke: {failure['why'].splitlines()[0]}",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)

    def stop_requested(self) -> bool:
        """Whether the driver asked for a last checkpoint and the end."""
        with suppress(BlockingIOError):
            self._unread += self._socket.recv(LINE_BYTES, socket.MSG_DONTWAIT)
        return b"stop\n" in self._unread

    def _send(self, message: dict) -> None:
        with suppress(OSError):  # without its agent the driver will miss this worker soon, and say so
            self._socket.sendall(json.dumps(message).encode() + b"\n")


def _describe(error: BaseException) -> dict:
    """``why``, whose fault it is (``exchange``: another worker's; ``user``: bad input)."""
    expected = isinstance(error, (UserError, JobError))
    words = f"{type(error).__name__}: {error}"
    return {
        "why": str(error) if expected else words[:LINE_BYTES],
        "expected": expected,
        "user": isinstance(error, UserError),
        "exchange": not expected and bool(EXCHANGE.search(f"{type(error).__module__}.{words}")),
    }


class _Watch:
    """The process: one loop over the worker's messages, its standard error, its end, and the driver."""

    def __init__(self, worker: socket.socket, words: int):
        self._worker, self._words = worker, words
        self._hello = self._read_hello()
        self._process = os.pidfd_open(self._hello["pid"])
        host, port, key = self._hello.pop("driver")
        self._driver = open_connection(Address(host, port, bytes.fromhex(key)))
        self._heard = self._since = time.monotonic()
        self._at: dict = {"phase": "start"}
        self._unread = self._unfinished = b""
        self._lines: deque[str] = deque(maxlen=LAST_LINES)

    def _read_hello(self) -> dict:
        return json.loads(self._worker.makefile("rb", buffering=0).readline())

    def run(self) -> None:
        self._tell_driver({"hello": self._hello})
        self._worker.sendall(b"ready\n")
        sources = selectors.DefaultSelector()
        for source, read in (
            (self._worker, self._read_worker),
            (self._words, self._read_words),
            (self._driver, self._read_driver),
            (self._process, None),
        ):
            sources.register(source, selectors.EVENT_READ, read)
        due = 0.0
        while True:
            ready = [key for key, _ in sources.select(max(0.0, due - time.monotonic()))]
            for key in ready:
                if key.data and not key.data():
                    sources.unregister(key.fileobj)
            if any(key.fd == self._process for key in ready):
                break
            if time.monotonic() >= due:
                due = time.monotonic() + TICK_SECONDS
                self._tick()
        ended = time.monotonic()
        self._read_worker()
        self._drain()
        self._tell_driver({"gone": {"at": self._at, "lines": list(self._lines), "ago": time.monotonic() - ended}})

    def _read_worker(self) -> bool:
        try:
            data = self._worker.recv(2**20, socket.MSG_DONTWAIT)
        except OSError:
            return False
        *lines, self._unread = (self._unread + data).split(b"\n")
        for message in map(json.loads, lines):
            if "at" in message:
                self._at, self._since = message["at"], time.monotonic()
            elif "event" in message:
                self._tell_driver(message)
            else:
                self._tell_driver({**message, "lines": list(self._lines)})
        return bool(data)

    def _read_words(self) -> bool:
        data = os.read(self._words, 2**16)
        with suppress(OSError):
            os.write(2, data)
        *lines, self._unfinished = (self._unfinished + data)[-LINE_BYTES * LAST_LINES :].split(b"\n")
        self._lines.extend(line[:LINE_BYTES].decode(errors="replace") for line in lines if line.strip())
        return bool(data)

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        with selectors.DefaultSelector() as words:
            words.register(self._words, selectors.EVENT_READ)
            while words.select(max(0.0, deadline - time.monotonic())) and self._read_words():
                pass

    def _read_driver(self) -> bool:
        try:
            order = self._driver.recv_bytes(LINE_BYTES)
        except LOST:
            self._kill()
            return False
        self._heard = time.monotonic()
        if order == b"stop":
            with suppress(OSError):
                self._worker.sendall(b"stop\n")
        elif order == b"kill":
            self._kill()
        elif order == b"dump":
            self._signal(signal.SIGUSR1)
        return True

    def _tick(self) -> None:
        if time.monotonic() - self._heard > DRIVER_SILENT_SECONDS:
            self._kill()
        self._tell_driver({"alive": {"at": self._at, "idle": time.monotonic() - self._since, "state": self._state()}})

    def _state(self) -> str:
        """The kernel's letter for what the worker's process does; T where it is stopped."""
        try:
            with open(f"/proc/{self._hello['pid']}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0]
        except OSError:
            return ""

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    def _tell_driver(self, message: dict) -> None:
        with suppress(*LOST):  # reading from it shows the same, and that ends the worker
            self._driver.send_bytes(json.dumps(message).encode())


def main() -> None:
    # Ctrl-C in a terminal, and a launcher that ends its processes, mean the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker = socket.socket(fileno=0)
    try:
        watch = _Watch(worker, int(sys.argv[1]))
    except LOST as error:
        worker.sendall(f"{type(error).__name__}: {error}\n".encode())
        return
    watch.run()


if __name__ == "__main__":
    main()
