"""Find out whether the process that left a lease or a temporary file has ended."""

from __future__ import annotations

import os
import socket


def this_machine() -> str:
    """This machine, and its container where there is one: a process id has no meaning in another container."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def has_ended(pid: int) -> bool:
    """Whether no process of this machine has the id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
