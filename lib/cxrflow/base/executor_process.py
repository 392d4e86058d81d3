"""What a process on an executor needs to know of the processes around it."""

from __future__ import annotations

import os
import sys


def python_path() -> str:
    """PYTHONPATH for a child process that shall find what this one does: Spark puts what --py-files names on the path
    of its own processes only."""
    return os.pathsep.join(filter(None, sys.path))


def executor_id() -> str | None:
    """The id of the Spark executor that this process is a descendant of; None where there is none, as in local mode.

    Spark tells its Python processes nothing of it, but starts every kind of executor with the flag --executor-id.
    """
    pid = os.getpid()
    try:
        while pid > 1:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if b"--executor-id" in words:
                return words[words.index(b"--executor-id") + 1].decode()
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
    except OSError:  # a parent that ended meanwhile, or belongs to somebody else
        pass
    return None
