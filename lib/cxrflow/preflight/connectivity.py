"""Whether workers reach each other: each opens a door and knocks at all others'. Standard library only."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

SECONDS = 4.0
"""For one ping. A firewall that swallows the call lets it wait this long."""
POLL_SECONDS = 0.1
THREADS = 64


class EchoServer:
    """Listens at the address by which the other workers know this one, and says ``word`` to who comes."""

    def __init__(self, host: str, word: str):
        try:
            self._socket = socket.create_server((host, 0), backlog=1024)
        except OSError:  # behind a translated address, as in a container, the name is not this machine's own
            self._socket = socket.create_server(("", 0), backlog=1024)
        self._socket.settimeout(POLL_SECONDS)
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self._word, self._over = word.encode(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                visitor, _ = self._socket.accept()
                with visitor:
                    visitor.sendall(self._word)
            except OSError:  # nobody came in time, or the visitor has left
                continue


def ping(address: tuple[str, int], word: str, seconds: float = SECONDS) -> str | None:
    """None where the door at ``address`` is open and says ``word``; otherwise why it is not."""
    try:
        with socket.create_connection(address, timeout=seconds) as connected:
            connected.settimeout(seconds)
            with connected.makefile("rb") as answer:
                said = answer.read(len(word) + 1)
    except TimeoutError:
        return f"no answer within {seconds:g} s, as behind a firewall"
    except OSError as error:
        return str(error)
    return None if said == word.encode() else "something else answers there"


def knock_at_all(addresses: dict[int, tuple[str, int]], word: str, seconds: float = SECONDS) -> dict[int, str]:
    """Why not, for each rank whose door did not open; all are tried at the same time."""
    if not addresses:
        return {}
    with ThreadPoolExecutor(min(THREADS, len(addresses))) as pool:
        answers = pool.map(lambda address: ping(address, word, seconds), addresses.values())
        return {rank: why for rank, why in zip(addresses, answers, strict=True) if why is not None}


def own_name_is_loopback() -> bool:
    """Whether this machine takes its own name for 127.x, which Horovod's gloo then tells the other machines."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return True
