"""Facts about the process tree of a Spark executor: its Python path and its executor id."""

from __future__ import annotations

import os
import sys


def python_path() -> str:
    """PYTHONPATH that gives a child process the same imports as this one.

    Spark adds the files of --py-files to the path of its own Python processes only.
    """
    return os.pathsep.join(filter(None, sys.path))


def executor_id() -> str | None:
    """The id of the Spark executor that started this process, directly or not; None if there is none (local mode).

    Spark does not pass the id to Python, but every executor's own command line has the flag --executor-id.
    """
    pid = os.getpid()
    try:
        while pid > 1:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
            if b"--executor-id" in arguments:
                return arguments[arguments.index(b"--executor-id") + 1].decode()
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
    except OSError:  # the parent has ended, or belongs to another user
        pass
    return None
