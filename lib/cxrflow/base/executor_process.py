"""Facts about the process tree of a Spark executor: its Python path and its executor id."""

from __future__ import annotations

import os
import sys

from cxrflow.base.process_tree import ancestors, command_line


def python_path() -> str:
    """PYTHONPATH that gives a child process the same imports as this one.

    Spark adds the files of --py-files to the path of its own Python processes only.
    """
    return os.pathsep.join(filter(None, sys.path))


def executor_id() -> str | None:
    """The id of the Spark executor that started this process, directly or not; None if there is none (local mode).

    Spark does not pass the id to Python, but every executor's own command line has the flag --executor-id.
    """
    for process in ancestors():
        arguments = command_line(process)
        if "--executor-id" in arguments:
            return arguments[arguments.index("--executor-id") + 1]
    return None
