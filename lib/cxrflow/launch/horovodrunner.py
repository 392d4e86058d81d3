"""Workers started by Databricks' ``HorovodRunner``, with TensorFlow as Keras' backend.

Its documented contract: ``HorovodRunner(np=n).run(main, **kwargs)`` waits for n task slots, calls ``main(**kwargs)``
in n worker processes, where ``hvd.init()`` works, and returns rank 0's result. A negative n starts -n processes on
the driver's machine, the only machine of a single-node cluster.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from pyspark.sql import SparkSession

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.agent import MonitorEndpoint
from cxrflow.distributed.worker import Worker
from cxrflow.launch import load_packages
from cxrflow.launch.horovod import worker_main
from cxrflow.launch.horovod_patches import patched_horovod


class HorovodRunnerLaunch:
    """See ``launch.Launch``."""

    def __init__(self, spark: SparkSession, config: TrainConfig, monitor: MonitorEndpoint):
        self._spark, self._config, self._monitor = spark, config, monitor
        self._group = f"cxrflow horovodrunner {secrets.token_hex(8)}"
        self._abort = threading.Event()
        load_packages("sparkdl", "horovod.runner.gloo_run", "horovod.spark.runner")

    def run(self, function: Callable[[TrainConfig, Worker], dict]) -> dict:
        """Rank 0's result. Raises what HorovodRunner raises if a worker fails."""
        from sparkdl import HorovodRunner

        context = self._spark.sparkContext
        context.setJobGroup(self._group, "cxrflow training", interruptOnCancel=True)
        workers = self._config.workers
        runner = HorovodRunner(np=-workers if context.master.startswith("local") else workers)
        threads = int(self._spark.conf.get("spark.task.cpus", "1"))
        with patched_horovod(self._abort):
            return runner.run(
                worker_main, function=function, config=self._config, threads=threads, monitor=self._monitor
            )

    def cancel(self) -> None:
        """Make ``run`` end soon, if possible."""
        self._abort.set()
        self._spark.sparkContext.cancelJobGroup(self._group)
