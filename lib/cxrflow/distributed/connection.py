"""Connections between the driver and its workers' machines that a random key authenticates.

A challenge in both directions (HMAC, as ``multiprocessing`` does it) keeps strangers out. Only bytes are exchanged and
nothing is unpickled; what is sent is not encrypted.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

POLL_SECONDS = 0.2
CONNECT_SECONDS = 5

LOST = (AuthenticationError, OSError, EOFError)
"""What a connection raises that cannot be opened, or that has ended."""


@dataclass(frozen=True)
class Address:
    """Where the driver listens, and the key that opens it."""

    host: str
    port: int
    key: bytes


class Listener:
    """Calls ``serve(connection)`` for each caller who has the key, in a thread of its own; a context manager, at whose
    end the door is shut."""

    def __init__(self, host: str, serve: Callable[[Connection], None] = lambda connection: None):
        """``host``: the driver's address as executors reach it (``spark.driver.host``)."""
        try:
            self._socket = socket.create_server((host, 0))
        except OSError:  # behind a translated address, as in a container, the name is not this machine's own
            self._socket = socket.create_server(("", 0))
        self._socket.settimeout(POLL_SECONDS)
        self.address = Address(host, self._socket.getsockname()[1], secrets.token_bytes(32))
        self._serve, self._over = serve, threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                accepted, _ = self._socket.accept()
            except TimeoutError:
                continue
            # Each in a thread of its own: a stranger who connects and says nothing must not keep the others waiting.
            threading.Thread(target=self._meet, args=(accepted,), daemon=True).start()

    def _meet(self, accepted: socket.socket) -> None:
        with Connection(accepted.detach()) as connection, suppress(*LOST):  # a stranger, or one who went away
            deliver_challenge(connection, self.address.key)
            answer_challenge(connection, self.address.key)
            self._serve(connection)


def open_connection(address: Address) -> Connection:
    """Raises one of ``LOST`` where the driver cannot be reached."""
    # multiprocessing's own Client would wait for minutes where a firewall swallows the call.
    connected = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    connected.settimeout(None)
    connection = Connection(connected.detach())
    if not connection.poll(CONNECT_SECONDS):
        raise TimeoutError("something listens there, but says nothing")
    answer_challenge(connection, address.key)
    deliver_challenge(connection, address.key)
    return connection


def check_reachable(address: Address) -> None:
    """Raise one of ``LOST`` where the driver cannot be reached."""
    open_connection(address).close()
