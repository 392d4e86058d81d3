"""One worker in this process."""

from __future__ import annotations

import os
from collections.abc import Callable

from cxrflow.base.config import TrainConfig
from cxrflow.distributed import signals
from cxrflow.distributed.device import pin
from cxrflow.distributed.worker import Worker


def launch(
    function: Callable[[TrainConfig, Worker], dict],
    config: TrainConfig,
    record: Callable[[dict], None],
    check: Callable[[], None],
) -> dict:
    """What ``function(config, worker)`` returns; ``record`` is called with the events that the worker tells, ``check`` before it
    writes a checkpoint, and what that raises ends the training. Raises Stopped after Ctrl-C or SIGTERM, and a checkpoint."""
    pin(os.environ.setdefault("KERAS_BACKEND", "tensorflow"), config.device, 0)
    worker = Worker()
    worker.report_event, worker.report_progress = record, lambda phase, **_: check() if phase == "checkpoint" else None
    with signals.held():
        result = function(config, worker)
        if result.get("stopped"):
            raise signals.stopped(result)
        return result
