"""Run a contestant as a process that answers lines, and read what Linux reports about processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


class Program:
    """A contestant that runs until ``close``. It is ready for its first line when the constructor returns."""

    def __init__(self, name: str, command: list[str], scratch: Path):
        self.name = name
        self._log = scratch / f"{name}.log"
        with open(self._log, "w") as log:
            # A new session, so that Ctrl-C reaches the driver only, which then ends its contestants in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        self._answer()

    def ask(self, line: str) -> dict:
        """Send a line and wait for the answer."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            last = "\n".join(self._log.read_text().splitlines()[-20:])
            raise RuntimeError(f"{self.name} ended with status {self._process.wait()}; its last lines:\n{last}")
        return json.loads(line)

    def processor_seconds(self) -> float:
        """CPU time of the contestant and its child processes so far, including those that have ended."""
        return sum(map(seconds_of, tree_of(self._process.pid)))

    def rest(self) -> None:
        """Stop all of its processes until ``wake``, so that they use no CPU time."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)
        time.sleep(1)  # for timers that are overdue

    def _signal(self, number: int) -> None:
        for pid in tree_of(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Close its input and wait, then kill what is left of its process group: Ray's agents outlive Ray."""
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def tree_of(pid: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def seconds_of(pid: int) -> float:
    """CPU time of one process and of its ended children, in user and system mode; 0 if it has ended."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / TICKS if fields else 0.0


def busy_seconds() -> float:
    """CPU time of this process's cores so far, for any process, the kernel, or another virtual machine."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    # user, nice, system, (idle, iowait,) irq, softirq, steal
    return sum(sum(map(int, row[1:4] + row[6:9])) for row in rows if row[0] in cores) / TICKS


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
