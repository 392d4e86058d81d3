"""Whether workers can reach each other: each runs an echo server and connects to those of all others."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from cxrflow.distributed.accept_loop import AcceptLoop

SECONDS = 4.0
"""Timeout of a ping. A firewall that drops packets makes it wait this long."""
THREADS = 64


class EchoServer:
    """Listens at the address by which other workers know this one, and sends ``token`` to whoever connects."""

    def __init__(self, host: str, token: str):
        self._token = token.encode()
        self._loop = AcceptLoop(host, self._answer, backlog=1024)
        self.address = self._loop.address
        self._loop.start()

    def close(self) -> None:
        """Stop the thread and close the socket."""
        self._loop.close()

    def _answer(self, accepted: socket.socket) -> None:
        with accepted:
            accepted.sendall(self._token)


def ping(address: tuple[str, int], token: str, seconds: float = SECONDS) -> str | None:
    """Connect to an EchoServer. None if it answers with ``token``, otherwise the reason why not."""
    try:
        with socket.create_connection(address, timeout=seconds) as connected:
            connected.settimeout(seconds)
            with connected.makefile("rb") as stream:
                answer = stream.read(len(token) + 1)
    except TimeoutError:
        return f"no answer within {seconds:g} s, perhaps because of a firewall"
    except OSError as error:
        return str(error)
    return None if answer == token.encode() else "another program answers at this port"


def ping_all(addresses: Mapping[int, tuple[str, int]], token: str, seconds: float = SECONDS) -> dict[int, str]:
    """Ping all addresses (by rank) at the same time. Returns the reason for each rank that was not reached."""
    if not addresses:
        return {}
    with ThreadPoolExecutor(min(THREADS, len(addresses))) as pool:
        answers = pool.map(lambda address: ping(address, token, seconds), addresses.values())
        return {rank: reason for rank, reason in zip(addresses, answers, strict=True) if reason is not None}


def hostname_is_loopback() -> bool:
    """Whether this machine resolves its own name to 127.x, which Horovod's Gloo would report to other machines."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return True
