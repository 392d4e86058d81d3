"""Records a training's events on the driver."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from cxrflow.base import storage
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.extras import require_modules
from cxrflow.base.manifest import RunDirectory
from cxrflow.watch.event_queue import EventQueue, Sink, one_line_error
from cxrflow.watch.terminal import TerminalSink

log = logging.getLogger(__name__)

OPEN_SECONDS = 30.0
"""Time limit for reaching MLflow before training starts."""
CLOSE_SECONDS = 60.0
"""Time limit for the sinks to write the last events, and for MLflow to receive the model."""


def check_watch(config: TrainConfig) -> None:
    """Raise UserError if the configuration needs a package that is not installed."""
    if config.mlflow is not None:
        require_modules("--mlflow", "mlflow", otherwise="omit --mlflow")


class Recorder:
    """Passes events to the sinks; a context manager around a training, whose end it records.

    A run that replaces another one writes files only from its first checkpoint on. Until then the other run stays
    valid, and events are buffered.
    """

    def __init__(self, config: TrainConfig, resumes: bool):
        """``config.run`` is absolute. ``resumes``: whether training continues the run in the run directory."""
        self._config, self._resumes = config, resumes
        self._run = RunDirectory(config.run)
        self._replaces = not resumes and self._run.has_run()
        self._buffered: list[dict] = []
        self._queues: list[EventQueue] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Recorder:
        """Open the sinks. Raises UserError if a new run cannot reach MLflow, before hours of training."""
        self._load_packages()
        self._queues.append(EventQueue("terminal", TerminalSink))
        if not self._resumes and not self._replaces:
            self._remove_old()  # files of a run that stopped before its first checkpoint
        if self._config.mlflow is not None:
            self._open_mlflow()
        if not self._replaces:
            self._open_files()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _) -> None:
        if error is None:
            self.record({"event": "end", "status": "finished"})
        elif isinstance(error, Exception):
            self.record({"event": "end", "status": "failed", "error": one_line_error(error)})
        else:  # KeyboardInterrupt, or SystemExit from a signal handler
            self.record({"event": "end", "status": "killed"})
        deadline = time.monotonic() + CLOSE_SECONDS
        for queue in self._queues:
            queue.close(max(0.0, deadline - time.monotonic()))

    def record(self, event: dict) -> None:
        """Record an event: plain data with ``event``, its name, usually one of ``events.FIELDS``.

        Never raises and never waits for a sink. Even a terminal can block, after Ctrl-S.
        """
        try:
            event = {"event": event["event"], "time": time.time(), **event}
            with self._lock:
                self._pass_on(event)
        except Exception as error:
            log.warning("an event was not recorded, training continues (%s)", one_line_error(error))

    def _pass_on(self, event: dict) -> None:
        if self._replaces:
            self._buffered.append(event)
            if event["event"] == "checkpoint":
                self._remove_old()  # before the MLflow sink gets the checkpoint, because it writes a file there too
                self._replaces = False
                for queue in self._open_files():
                    for buffered in self._buffered[:-1]:
                        queue.record(buffered)
                self._buffered.clear()
        for queue in self._queues:
            queue.record(event)

    def _remove_old(self) -> None:
        for url in (self._run.events, self._run.tensorboard, self._run.mlflow):
            storage.remove(url)

    def _open_files(self) -> list[EventQueue]:
        queues = [EventQueue("events.jsonl", self._json_lines)]
        if self._writes_tensorboard():
            log.info("watch with: tensorboard --logdir %s", self._run.tensorboard)
            queues.append(EventQueue("TensorBoard", self._tensorboard))
        elif self._config.tensorboard:
            log.info("no TensorBoard files, because the package tensorboard is not installed on the driver")
        self._queues += queues
        return queues

    def _open_mlflow(self) -> None:
        # A resumed run does not wait: a job that restarts at night must survive an outage of MLflow.
        seconds = None if self._resumes else OPEN_SECONDS
        try:
            self._queues.append(EventQueue("MLflow", self._mlflow, seconds))
        except Exception as error:  # of MLflow, or of the store that it opens
            raise UserError(
                f"--mlflow: expected to create a run in the experiment {self._config.mlflow!r} within "
                f"{OPEN_SECONDS:.0f} s, got {one_line_error(error)}; set MLFLOW_TRACKING_URI and its credentials in "
                "the driver's environment, or omit --mlflow"
            ) from None

    def _load_packages(self) -> None:
        """Import the sinks' modules before their threads start.

        Python's imports sometimes deadlock when two threads import packages at the same time, and the launcher's thread
        does so next.
        """
        needed = {"jsonl": True, "tensorboard": self._writes_tensorboard(), "mlflow": self._config.mlflow is not None}
        for name in (name for name, is_needed in needed.items() if is_needed):
            with suppress(Exception):  # the sink raises it again and warns
                import_module(f"cxrflow.watch.{name}_sink")

    def _writes_tensorboard(self) -> bool:
        return self._config.tensorboard and find_spec("tensorboard") is not None

    def _json_lines(self) -> Sink:
        from cxrflow.watch.jsonl_sink import JsonlSink

        return JsonlSink(self._run.events)

    def _tensorboard(self) -> Sink:
        from cxrflow.watch.tensorboard_sink import TensorBoardSink

        return TensorBoardSink(self._run.tensorboard)

    def _mlflow(self) -> Sink:
        from cxrflow.watch.mlflow_sink import MLflowSink

        return MLflowSink(self._config, resumes=self._resumes, replaces=self._replaces)
