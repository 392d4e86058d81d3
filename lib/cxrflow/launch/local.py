"""One worker in this process."""

from __future__ import annotations

import os
from collections.abc import Callable

from cxrflow.config import TrainConfig
from cxrflow.launch.worker import Worker
from cxrflow.watch.terminal import show


def launch(function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, spark=None,
           record: Callable[[dict], None] = show) -> dict:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    worker = Worker()
    worker.tell = record
    return function(config, worker)
