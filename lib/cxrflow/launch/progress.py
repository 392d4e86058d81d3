"""Rank 0's events on the driver, as they happen, whatever the launcher.

Horovod hands a worker's output on in blocks of 64 kB, which for a few lines an epoch means at the end. So rank 0 sends
its events to the driver itself, over a connection that a random key authenticates (HMAC, as ``multiprocessing``
does it). Each is one JSON object, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

from cxrflow.watch.terminal import show

MAX_BYTES = 10_000  # of one event
POLL_SECONDS = 0.2
CONNECT_SECONDS = 5


@dataclass(frozen=True)
class Address:
    """Where the driver listens, and the key that opens it."""

    host: str
    port: int
    key: bytes


class ProgressListener:
    """Hands one sender's events to ``record``; a context manager around a launch."""

    def __init__(self, host: str, record: Callable[[dict], None] = show):
        """``host``: the driver's address as executors reach it (``spark.driver.host``)."""
        self._record = record
        try:
            self._socket = socket.create_server((host, 0))
        except OSError:  # behind a translated address, as in a container, the name is not this machine's own
            self._socket = socket.create_server(("", 0))
        self._socket.settimeout(POLL_SECONDS)
        self.address = Address(host, self._socket.getsockname()[1], secrets.token_bytes(32))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> ProgressListener:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        senders = []
        while not self._over.is_set():
            try:
                accepted, _ = self._socket.accept()
            except TimeoutError:
                continue
            # Each in a thread of its own: a stranger who connects and says nothing must not keep rank 0 waiting.
            senders.append(threading.Thread(target=self._serve, args=(accepted,), daemon=True))
            senders[-1].start()
        for sender in senders:
            sender.join(timeout=1)

    def _serve(self, accepted: socket.socket) -> None:
        with Connection(accepted.detach()) as connection:
            try:
                deliver_challenge(connection, self.address.key)
                answer_challenge(connection, self.address.key)
                self._relay(connection)
            except (AuthenticationError, OSError, EOFError, ValueError):
                pass  # a stranger without the key, or a sender that died

    def _relay(self, connection: Connection) -> None:
        """Hand on what comes until the sender ends, or has nothing more to say after the launch is over."""
        while connection.poll(POLL_SECONDS) or not self._over.is_set():
            if connection.poll():
                self._record(json.loads(connection.recv_bytes(MAX_BYTES)))


def connect(address: Address) -> Callable[[dict], None]:
    """A function that sends an event to the driver.

    Progress never stops training: where the driver cannot be reached, events go to standard error.
    """
    try:
        connection = _open(address)
    except (AuthenticationError, OSError, EOFError) as error:
        print(f"rank 0 (process {os.getpid()}) cannot reach the driver at {address.host}:{address.port} ({error}); "
              "its progress stays in this log", file=sys.stderr, flush=True)
        return show

    def send(event: dict) -> None:
        try:
            connection.send_bytes(json.dumps(event).encode())
        except OSError:
            show(event)

    return send


def check_reachable(address: Address) -> None:
    """Raise OSError, EOFError or AuthenticationError where the driver cannot be reached."""
    _open(address).close()


def _open(address: Address) -> Connection:
    # multiprocessing's own Client would wait for minutes where a firewall swallows the call.
    connected = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    connected.settimeout(None)
    connection = Connection(connected.detach())
    if not connection.poll(CONNECT_SECONDS):
        raise TimeoutError("something listens there, but says nothing")
    answer_challenge(connection, address.key)
    deliver_challenge(connection, address.key)
    return connection
