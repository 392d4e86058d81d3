"""Workers started by ``horovod.spark.run``, one per Spark task slot, with TensorFlow as Keras' backend."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from cxrflow.base.config import TrainConfig
from cxrflow.base.framework_process import prepare_process
from cxrflow.base.keras_import import import_keras
from cxrflow.distributed.agent import Agent, MonitorEndpoint
from cxrflow.distributed.device import pin
from cxrflow.distributed.worker import MonitoredWorker, Tensor, Worker
from cxrflow.launch import load_packages
from cxrflow.launch.horovod_patches import advertise_driver_at, patched_horovod
from cxrflow.launch.portable import portable

START_SECONDS = 120
"""For Spark to start all tasks."""
CPU_CYCLE_MILLISECONDS = "3"
"""Time between two negotiations of Horovod's workers about which tensors are ready. On CPUs, its default of 1 ms took
a tenth of a core. With 10 ms, gradients waited for about as much time."""


class HorovodLaunch:
    """See ``launch.Launch``."""

    def __init__(self, spark: SparkSession, config: TrainConfig, monitor: MonitorEndpoint):
        self._spark, self._config, self._monitor = spark, config, monitor
        self._abort, self._job = threading.Event(), 0
        load_packages(
            "horovod.spark",
            "horovod.runner.gloo_run",
            "horovod.spark.driver.driver_service",
            "horovod.spark.driver.job_id",
            "multiprocessing.synchronize",
            "multiprocessing.queues",
            "multiprocessing.popen_fork",
            "encodings.idna",
        )

    def run(self, function: Callable[[TrainConfig, Worker], dict]) -> dict:
        """Rank 0's result. Raises RuntimeError if a worker fails."""
        import horovod.spark
        from horovod.spark.driver import job_id

        advertise_driver_at(self._monitor.address.host)
        threads = int(self._spark.conf.get("spark.task.cpus", "1"))
        self._job = job_id.JOB_ID + 1
        with patched_horovod(self._abort):
            return horovod.spark.run(
                portable(self._spark, worker_main, function, self._config, threads, self._monitor),
                num_proc=self._config.workers,
                start_timeout=START_SECONDS,
                stdout=sys.stderr,
                stderr=sys.stderr,
                verbose=0,
                use_gloo=True,
                executable=self._spark.sparkContext.pythonExec,  # not sys.executable: the executors' Python may differ
                env={"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
            )[0]

    def cancel(self) -> None:
        """Make ``run`` end soon, if possible."""
        self._abort.set()
        self._spark.sparkContext.cancelJobGroup(f"horovod.spark.run.{self._job}")


def worker_main(
    function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, threads: int, monitor: MonitorEndpoint
) -> dict:
    """Run in each worker's process: call ``function(config, worker)`` with ``threads`` CPU threads."""
    with Agent(monitor, _rank()) as agent:
        prepare_process("tensorflow", threads)  # a worker uses the cores of its task slot and no more
        import_keras()  # horovod.tensorflow imports Keras
        import horovod.tensorflow as hvd
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        assigned_gpu = _assigned_gpu()  # before TensorFlow looks for GPUs
        if config.device == "cpu" or not tf.config.list_physical_devices("GPU"):
            os.environ.setdefault("HOROVOD_CYCLE_TIME", CPU_CYCLE_MILLISECONDS)
        hvd.init()
        try:
            pin("tensorflow", config.device, 0 if assigned_gpu else hvd.local_rank())
            return function(config, HorovodWorker(hvd, tf, agent))
        finally:
            hvd.shutdown()


def _assigned_gpu() -> bool:
    """Whether Spark has assigned a GPU to this worker's task. If so, the process will see no other GPU."""
    from horovod.spark.task import get_available_devices

    devices = get_available_devices()
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    return bool(devices)


def _rank() -> int:
    """This process's rank, before Horovod is imported: from Horovod's launcher or from HorovodRunner's mpirun."""
    return int(
        next(os.environ[name] for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK") if name in os.environ)
    )


class HorovodWorker(MonitoredWorker):
    """Collectives of Horovod, which uses NCCL for tensors on GPUs if it was built with it.

    Gradients are averaged in one grouped all-reduce inside TensorFlow's graph.
    """

    def __init__(self, hvd: Any, tf: Any, agent: Agent):
        self._hvd, self._tf, self.agent = hvd, tf, agent
        self.rank, self.size = hvd.rank(), hvd.size()
        with tf.device("/cpu:0"):
            self._seconds = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    def all_reduce_mean_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """See ``Worker``."""
        if self.size == 1:
            return gradients
        tf = self._tf
        # The dependencies make the graph read the clock after the last gradient, and again after the last mean.
        with tf.control_dependencies(gradients):
            started = tf.timestamp()
        with tf.control_dependencies([started]):
            gradients = [tf.identity(gradient) for gradient in gradients]
        means = self._hvd.grouped_allreduce(gradients, op=self._hvd.Average)
        with tf.control_dependencies(means):
            self._seconds.assign_add(tf.timestamp() - started)
        return means

    def all_reduce_seconds(self) -> float:
        """See ``Worker``."""
        return float(self._seconds.numpy())

    def all_reduce_mean_tensor(self, tensor: Tensor) -> Tensor:
        """See ``Worker``."""
        return self._hvd.allreduce(tensor, op=self._hvd.Average)

    def all_reduce_mean(self, arrays: list[np.ndarray], names: Sequence[str] | None = None) -> list[np.ndarray]:
        """See ``Worker``."""
        self.require_agreement("all_reduce_mean", arrays, names)
        reduced = self._hvd.grouped_allreduce([np.asarray(array) for array in arrays], op=self._hvd.Average)
        return [tensor.numpy() for tensor in reduced]

    def broadcast(self, arrays: list[np.ndarray], names: Sequence[str] | None = None) -> list[np.ndarray]:
        """See ``Worker``."""
        self.require_agreement("broadcast", arrays, names)
        return [self._hvd.broadcast(np.asarray(array), root_rank=0).numpy() for array in arrays]

    def all_gather(self, array: np.ndarray, name: str | None = None) -> np.ndarray:
        """See ``Worker``."""
        self.require_agreement("all_gather", [array], [name or "array"], any_length=True)
        return self._hvd.allgather(np.asarray(array)).numpy()

    def _gather_equal(self, array: np.ndarray) -> np.ndarray:
        return self._hvd.allgather(array[None]).numpy()
