"""Workers started by Databricks' ``HorovodRunner``, with TensorFlow under Keras.

Its documented contract: ``HorovodRunner(np=n).run(main, **kwargs)`` waits for n task slots, calls ``main(**kwargs)`` on each
of n workers, in which ``hvd.init()`` works, and returns what rank 0 returned; a negative n starts -n processes on the
driver's machine, which is all that a cluster of a single node has.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.connection import Address
from cxrflow.distributed.worker import Worker
from cxrflow.launch import load_packages
from cxrflow.launch.horovod import as_guest, worker_main


class HorovodRunnerLaunch:
    """One launch, which another thread can cancel."""

    def __init__(self, spark, config: TrainConfig, driver: Address):
        self._spark, self._config, self._driver = spark, config, driver
        self._group = f"cxrflow horovodrunner {secrets.token_hex(8)}"
        self._abort = threading.Event()
        load_packages("sparkdl", "horovod.runner.gloo_run", "horovod.spark.runner")

    def run(self, function: Callable[[TrainConfig, Worker], dict]) -> dict:
        """What rank 0 returned. Raises what HorovodRunner does where a worker ended otherwise."""
        from sparkdl import HorovodRunner

        context = self._spark.sparkContext
        context.setJobGroup(self._group, "cxrflow training", interruptOnCancel=True)
        workers = self._config.workers
        runner = HorovodRunner(np=-workers if context.master.startswith("local") else workers)
        threads = int(self._spark.conf.get("spark.task.cpus", "1"))
        with as_guest(self._abort):
            return runner.run(worker_main, function=function, config=self._config, threads=threads, driver=self._driver)

    def cancel(self) -> None:
        """Have ``run`` end soon, if it can."""
        self._abort.set()
        self._spark.sparkContext.cancelJobGroup(self._group)
