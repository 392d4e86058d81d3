"""Runs ``training.smoke_step``, one step of the model, in a separate process.

So no framework is loaded in a Spark task, and a framework that crashes does not crash the task.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress

from cxrflow.base.executor_process import python_path
from cxrflow.base.framework_process import framework_environment

SECONDS = 120.0
"""Time limit. Loading a framework from a slow network file system takes long."""
LAST_LINES = 3


class SmokeProcess:
    """A running smoke step; a context manager that ends the process."""

    def __init__(
        self, config: dict, backend: str, threads: int, gpus: list[str] | None = None, seconds: float = SECONDS
    ):
        """Start the process without waiting for it.

        ``config``: the fields of the TrainConfig. ``gpus``: the visible GPUs; all of the machine if not given.
        """
        self._seconds = seconds
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in __exit__
        # Set before a framework loads, so that it uses only the cores of the worker's slot.
        environment = {
            **os.environ,
            **framework_environment(backend, threads),
            "PYTHONPATH": python_path(),
            **({} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cxrflow.training.smoke_step"],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        # The pipe stays open: the process ends when the pipe closes, because then nobody waits for it.
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already; ``result`` reports why
            self._process.stdin.write(json.dumps({"config": config, "threads": threads}) + "\n")
            self._process.stdin.flush()

    def __enter__(self) -> SmokeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._process.wait()
        self._log.close()

    def result(self) -> dict:
        """Wait for the process. Returns what ``smoke_step.run_step`` returned, ``gpus`` (visible) and ``own_seconds``.

        Raises RuntimeError with the last lines of its log if it failed, and TimeoutError if it hangs.
        """
        try:
            status = self._process.wait(self._seconds)  # its single line of output fits into the pipe's buffer
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"not finished within {self._seconds:g} s; its last lines: {self._last_lines()}"
            ) from None
        if status != 0:
            raise RuntimeError(f"ended with status {status}; its last lines: {self._last_lines()}")
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.read().splitlines()[-1])

    def _last_lines(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-LAST_LINES:]) or "none"
