"""Facts about Linux processes, read from /proc: ancestors, state and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def ancestors(proc: Path = PROC) -> Iterator[int]:
    """The ids of this process, its parent and so on. Ends early where a process has ended or is not visible."""
    process = os.getpid()
    while process > 1:
        yield process
        fields = _stat(process, proc)
        if len(fields) < 2:
            return
        process = int(fields[1])


def command_line(process: int, proc: Path = PROC) -> list[str]:
    """The arguments of a process; none if it has ended or is not visible."""
    try:
        return (proc / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def process_state(process: int) -> str:
    """The kernel's letter for the state of a process, such as T for stopped; empty if it has ended."""
    return next(iter(_stat(process, PROC)), "")


def data_bytes() -> int:
    """Bytes that this process has allocated, by the rules of RLIMIT_DATA."""
    status = (PROC / "self" / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))


def _stat(process: int, proc: Path) -> list[str]:
    """The fields after the command's name, which may itself contain blanks and brackets: state, parent, ..."""
    try:
        return (proc / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
