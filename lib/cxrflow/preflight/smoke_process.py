"""Starts ``training.trial``: a step of the model in a process of its own, so that no framework is loaded in a Spark
task, and a framework that crashes takes nothing with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress

from cxrflow.base.executor_process import python_path

SECONDS = 120.0
"""Loading a framework over a slow network file system takes long; a step that hangs must not take for ever."""
LINES = 3


class Trial:
    """A trial under way, from its construction on; a context manager that ends it."""

    def __init__(
        self, config: dict, backend: str, threads: int, gpus: list[str] | None = None, seconds: float = SECONDS
    ):
        """``config``: the fields of the TrainConfig. ``gpus``: those that it may see, all of the machine's if not given.
        Costs only the start of a process."""
        self._seconds, self._log = seconds, tempfile.TemporaryFile()
        # Before a framework is loaded: it keeps to the cores of the worker's slot.
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "2",
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
        # The pipe stays open: by its end the process knows that nobody waits for it any more.
        with suppress(BrokenPipeError):  # it is gone already; ``result`` says why
            self._process.stdin.write(json.dumps({"config": config, "threads": threads}) + "\n")
            self._process.stdin.flush()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._process.wait()
        self._log.close()

    def result(self) -> dict:
        """What ``training.trial.run_step`` returned, ``gpus`` that it saw, and ``own_seconds``, as it counted them. Raises
        RuntimeError with the process' last words where it failed, and TimeoutError where it hangs."""
        try:
            status = self._process.wait(self._seconds)  # its one line is shorter than a pipe is long
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no end within {self._seconds:g} s; its last words: {self._last_words()}") from None
        if status != 0:
            raise RuntimeError(f"it ended with status {status}; its last words: {self._last_words()}")
        return json.loads(self._process.stdout.read().splitlines()[-1])

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-LINES:]) or "none"
