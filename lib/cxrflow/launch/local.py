"""One worker in this process."""

from __future__ import annotations

import os
from collections.abc import Callable

from cxrflow.config import TrainConfig
from cxrflow.launch.worker import Worker


def launch(function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, spark=None) -> dict:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    return function(config, Worker())
