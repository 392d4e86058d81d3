"""One worker in this process."""

from __future__ import annotations

import os
from collections.abc import Callable

from cxrflow.config import TrainConfig
from cxrflow.launch import signals
from cxrflow.launch.worker import Worker


def launch(function: Callable[[TrainConfig, Worker], dict], config: TrainConfig) -> dict:
    """What ``function(config, worker)`` returns. Raises Stopped after Ctrl-C or SIGTERM, and a checkpoint."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with signals.held(None):
        result = function(config, Worker())
        if result.get("stopped"):
            raise signals.stopped(result)
        return result
