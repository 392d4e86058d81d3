"""Who records a training's events on the driver."""

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
from cxrflow.base.manifest import RunDirectory
from cxrflow.watch.event_queue import EventQueue, Sink, one_line_error
from cxrflow.watch.terminal import TerminalSink

log = logging.getLogger(__name__)

OPEN_SECONDS = 30.0
"""To reach MLflow, before training begins."""
CLOSE_SECONDS = 60.0
"""For the sinks to take what happened last, and for MLflow to take the model."""


def check_watch(config: TrainConfig) -> None:
    """Raise UserError where what is asked for is not installed."""
    if config.mlflow is not None and find_spec("mlflow") is None:
        raise UserError(
            "--mlflow: expected the package mlflow-skinny or mlflow on the driver, found neither; "
            "pip install 'cxrflow[mlflow]', or leave --mlflow out"
        )


class Recorder:
    """Hands events to the sinks; a context manager around a training, whose end it tells as well.

    Of a run that replaces another one, the files in the run directory are written from its first checkpoint on, as all
    its other files are: until then the other run is whole.
    """

    def __init__(self, config: TrainConfig, resumes: bool):
        """``config.run`` is absolute. ``resumes``: whether training goes on with the run directory's run."""
        self._config, self._resumes = config, resumes
        self._run = RunDirectory(config.run)
        self._replaces = not resumes and self._run.has_run()
        self._held: list[dict] = []
        self._channels: list[EventQueue] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Recorder:
        """Raises UserError where a new run cannot reach MLflow: better now than after a night."""
        self._load_packages()
        self._channels.append(EventQueue("terminal", TerminalSink))
        if not self._resumes and not self._replaces:
            self._remove_old()  # of a run that died before its first checkpoint
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
        else:  # KeyboardInterrupt, or SystemExit of a signal's handler
            self.record({"event": "end", "status": "killed"})
        deadline = time.monotonic() + CLOSE_SECONDS
        for channel in self._channels:
            channel.close(max(0.0, deadline - time.monotonic()))

    def record(self, event: dict) -> None:
        """Record an event of ``events.FIELDS``, or of another kind: plain data with ``event``, its name. Never raises,
        and does not wait for any sink: a terminal that is held with Ctrl-S would be one, too."""
        try:
            event = {"event": event["event"], "time": time.time(), **event}
            with self._lock:
                self._pass_on(event)
        except Exception as error:
            log.warning("an event is not recorded, training goes on (%s)", one_line_error(error))

    def _pass_on(self, event: dict) -> None:
        if self._replaces:
            self._held.append(event)
            if event["event"] == "checkpoint":
                self._remove_old()  # before MLflow's sink hears of the checkpoint, for it writes there too
                self._replaces = False
                for channel in self._open_files():
                    for held in self._held[:-1]:
                        channel.record(held)
                self._held.clear()
        for channel in self._channels:
            channel.record(event)

    def _remove_old(self) -> None:
        for url in (self._run.events, self._run.tensorboard, self._run.mlflow):
            storage.remove(url)

    def _open_files(self) -> list[EventQueue]:
        channels = [EventQueue("events.jsonl", self._json_lines)]
        if self._shows_tensorboard():
            log.info("watch with: tensorboard --logdir %s", self._run.tensorboard)
            channels.append(EventQueue("TensorBoard", self._tensorboard))
        elif self._config.tensorboard:
            log.info("no files for TensorBoard: the package tensorboard is not installed on the driver")
        self._channels += channels
        return channels

    def _open_mlflow(self) -> None:
        # A run that goes on does not wait for it: a night's job that is started again must outlive MLflow's pauses.
        seconds = None if self._resumes else OPEN_SECONDS
        try:
            self._channels.append(EventQueue("MLflow", self._mlflow, seconds))
        except Exception as error:  # MLflow's own, or those of a store that it opens
            raise UserError(
                f"--mlflow: expected an MLflow that takes a run of the experiment {self._config.mlflow!r} within "
                f"{OPEN_SECONDS:.0f} s, got {one_line_error(error)}; set MLFLOW_TRACKING_URI and what it needs in the "
                "driver's environment, or leave --mlflow out"
            ) from None

    def _load_packages(self) -> None:
        """Before the sinks' threads begin. Python's import now and then stops for ever where two threads load packages at a
        time, and the launcher's does next."""
        wanted = {"jsonl": True, "tensorboard": self._shows_tensorboard(), "mlflow": self._config.mlflow is not None}
        for name in (name for name, is_wanted in wanted.items() if is_wanted):
            with suppress(Exception):  # which the sink meets again, and says
                import_module(f"cxrflow.watch.{name}_sink")

    def _shows_tensorboard(self) -> bool:
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
