"""A thread that accepts connections on a free port until it is closed. Standard library only."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

POLL_SECONDS = 0.1


class AcceptLoop:
    """Listens from its construction on; ``start`` begins to accept, ``close`` ends it."""

    def __init__(self, host: str, serve: Callable[[socket.socket], object], backlog: int = 128):
        """``host``: this machine's address as others reach it. ``serve`` runs on the loop's thread and closes its
        argument; an OSError from it ends this client only."""
        try:
            self._socket = socket.create_server((host, 0), backlog=backlog)
        except OSError:  # behind NAT, as in a container, that address is not this machine's own
            self._socket = socket.create_server(("", 0), backlog=backlog)
        self._socket.settimeout(POLL_SECONDS)
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self._serve, self._closed = serve, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Accept no more connections; those that are open stay open."""
        self._closed.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                accepted, _ = self._socket.accept()
            except OSError:  # nobody connected within POLL_SECONDS, or the client has left already
                continue
            with suppress(OSError):
                self._serve(accepted)
