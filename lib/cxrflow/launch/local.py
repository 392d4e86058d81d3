"""One worker in the driver's process."""

from __future__ import annotations

import os
from collections.abc import Callable

from cxrflow.base.config import TrainConfig
from cxrflow.base.framework_process import prepare_process
from cxrflow.base.keras_settings import local_backend
from cxrflow.distributed import signals
from cxrflow.distributed.device import pin
from cxrflow.distributed.worker import Worker


class LocalWorker(Worker):
    """Reports to the driver's recorder by a plain call."""

    def __init__(self, record: Callable[[dict], None], check: Callable[[], None]):
        self.report_event = record
        self._check = check

    def report_progress(
        self, phase: str, *, epoch: int | None = None, step: int | None = None, shard: str | None = None
    ) -> None:
        """Make sure before each checkpoint that this job still owns the run directory."""
        if phase == "checkpoint":
            self._check()


def launch(
    function: Callable[[TrainConfig, Worker], dict],
    config: TrainConfig,
    record: Callable[[dict], None],
    check: Callable[[], None],
) -> dict:
    """Call ``function(config, worker)`` and return its result.

    ``record`` receives the worker's events. ``check`` is called before each checkpoint, and an exception from it ends
    the training. Raises Stopped after Ctrl-C or SIGTERM, once a checkpoint is saved.
    """
    backend = local_backend()
    prepare_process(backend, threads=os.cpu_count() or 1)
    pin(backend, config.device, 0)
    with signals.catch_stop_signals():
        result = function(config, LocalWorker(record, check))
        if result.get("stopped"):
            raise signals.stopped_with_checkpoint(result)
        return result
