"""Connections between the driver and the workers' machines, authenticated by a random key.

Both ends answer a challenge (HMAC, as in ``multiprocessing``), so that only holders of the key connect. The connection
carries bytes that are never unpickled. It is not encrypted.
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
from types import TracebackType

from cxrflow.distributed.accept_loop import AcceptLoop

CONNECT_SECONDS = 5

LOST = (AuthenticationError, OSError, EOFError)
"""What a connection raises if it cannot be opened or has ended."""


@dataclass(frozen=True)
class Address:
    """Where the driver listens, and the key for it."""

    host: str
    port: int
    key: bytes


class Listener:
    """Calls ``serve(connection)`` for every client that has the key, each in a thread of its own.

    A context manager: it listens within the block and accepts no connection after it.
    """

    def __init__(self, host: str, serve: Callable[[Connection], object] = lambda connection: None):
        """``host``: the driver's address as executors reach it (``spark.driver.host``)."""
        self._loop = AcceptLoop(host, self._start_thread)
        self.address = Address(*self._loop.address, secrets.token_bytes(32))
        self._serve = serve

    def __enter__(self) -> Listener:
        self._loop.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Accept no more connections; those that are open stay open."""
        self._loop.close()

    def _start_thread(self, accepted: socket.socket) -> None:
        # In a thread of its own, because a client that sends nothing must not block the others.
        threading.Thread(target=self._authenticate, args=(accepted,), daemon=True).start()

    def _authenticate(self, accepted: socket.socket) -> None:
        with Connection(accepted.detach()) as connection, suppress(*LOST):  # a wrong key, or a client that left
            deliver_challenge(connection, self.address.key)
            answer_challenge(connection, self.address.key)
            self._serve(connection)


def open_connection(address: Address) -> Connection:
    """An authenticated connection to the driver. Raises one of ``LOST`` if the driver cannot be reached."""
    # multiprocessing's own Client waits for minutes if a firewall drops the packets.
    connected = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    connected.settimeout(None)
    connection = Connection(connected.detach())
    if not connection.poll(CONNECT_SECONDS):
        raise TimeoutError("something listens there, but does not answer")
    answer_challenge(connection, address.key)
    deliver_challenge(connection, address.key)
    return connection


def check_reachable(address: Address) -> None:
    """Raise one of ``LOST`` if the driver cannot be reached."""
    open_connection(address).close()
