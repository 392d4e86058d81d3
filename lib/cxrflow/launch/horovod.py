"""Workers started by ``horovod.spark.run``, one a Spark task slot, with TensorFlow under Keras."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.agent import Agent
from cxrflow.distributed.connection import Address
from cxrflow.distributed.device import pin
from cxrflow.distributed.worker import WatchedWorker, Worker
from cxrflow.launch import load_packages
from cxrflow.launch.portable import portable

START_SECONDS = 120
CPU_CYCLE_MILLISECONDS = "3"
"""How often Horovod's workers agree on what there is to exchange. At its own 1 ms this took a tenth of a core that computes; at
10 ms, gradients waited for their turn as long."""


class HorovodLaunch:
    """One launch, which another thread can cancel."""

    def __init__(self, spark, config: TrainConfig, driver: Address):
        self._spark, self._config, self._driver = spark, config, driver
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
        """What rank 0 returned. Raises RuntimeError where a worker ended otherwise."""
        import horovod.spark
        from horovod.spark.driver import job_id

        meet_at(self._driver.host)
        threads = int(self._spark.conf.get("spark.task.cpus", "1"))
        self._job = job_id.JOB_ID + 1
        with as_guest(self._abort):
            return horovod.spark.run(
                portable(self._spark, worker_main, function, self._config, threads, self._driver),
                num_proc=self._config.workers,
                start_timeout=START_SECONDS,
                stdout=sys.stderr,
                stderr=sys.stderr,
                verbose=0,
                use_gloo=True,
                executable=self._spark.sparkContext.pythonExec,  # the executors', which may not be the driver's
                env={"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
            )[0]

    def cancel(self) -> None:
        """Have ``run`` end soon, if it can."""
        self._abort.set()
        self._spark.sparkContext.cancelJobGroup(f"horovod.spark.run.{self._job}")


_guests: list[threading.Event] = []
_originals: list[tuple] = []
_lock = threading.Lock()


@contextmanager
def as_guest(abort: threading.Event) -> Iterator[None]:
    """Have Horovod behave as a part of a program, not as the whole of it, for the length of a block. Blocks may overlap: a
    launch that was left behind, for its machine is gone, ends when it likes."""
    with _lock:
        if not _guests:
            _change_horovod()
        _guests.append(abort)
    try:
        yield
    finally:
        with _lock:
            _guests.remove(abort)
            while _originals and not _guests:
                setattr(*_originals.pop())


def _change_horovod() -> None:
    import horovod.runner.gloo_run as gloo_run
    import horovod.runner.util.threads as threads
    import horovod.spark.runner as runner

    in_thread, excepthook = threads.in_thread, threading.excepthook

    def in_daemon(target, args=(), name=None, daemon=True, silent=False):
        return in_thread(target, args, name, True, silent)

    def hook(failed) -> None:
        if not (failed.thread and "run_spark" in failed.thread.name):
            excepthook(failed)

    changes = [
        # It takes Ctrl-C and SIGTERM for itself, which only a main thread can. All that it wants is an event.
        (gloo_run, "register_shutdown_event", lambda: _guests[-1]),
        # Its threads may wait for ever for a machine that is gone, and the process for them.
        (threads, "in_thread", in_daemon),
        (runner, "in_thread", in_daemon),
        # The one for the Spark job shows the job's cancellation as a stack trace of Python and Java.
        (threading, "excepthook", hook),
    ]
    for owner, name, value in changes:
        _originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)


def meet_at(host: str) -> None:
    """Have Horovod's workers meet at the driver's address that Spark gives them.

    Horovod would look for it on the driver's interface of the same name as one that the workers share. The driver may
    have none of that name; and where all workers are on another machine, they share its loopback.
    """
    from horovod.spark.driver.driver_service import SparkDriverService

    def addresses(service) -> dict[str, list[tuple[str, int]]]:
        shared = {name for found in list(service._task_addresses_for_tasks.values()) for name in found}
        return dict.fromkeys(shared or {"driver"}, [(host, service.get_port())])

    SparkDriverService.addresses = addresses


def worker_main(
    function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, threads: int, driver: Address
) -> dict:
    """What a worker's process does."""
    with Agent(driver, _rank()) as agent:
        # Before TensorFlow is loaded: each worker owns the cores of its task slot and no more.
        os.environ.update(KERAS_BACKEND="tensorflow", OMP_NUM_THREADS=str(threads), TF_CPP_MIN_LOG_LEVEL="2")
        import horovod.tensorflow as hvd
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        owns_gpu = _owns_gpu()  # before TensorFlow looks which there are
        if config.device == "cpu" or not tf.config.list_physical_devices("GPU"):
            os.environ.setdefault("HOROVOD_CYCLE_TIME", CPU_CYCLE_MILLISECONDS)
        hvd.init()
        try:
            pin("tensorflow", config.device, 0 if owns_gpu else hvd.local_rank())
            return function(config, HorovodWorker(hvd, tf, agent))
        finally:
            hvd.shutdown()


def _owns_gpu() -> bool:
    """Whether Spark gave this worker's task a GPU, and has it see that alone."""
    from horovod.spark.task import get_available_devices

    devices = get_available_devices()
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    return bool(devices)


def _rank() -> int:
    """This process' rank before Horovod is loaded: from its own launcher, or from the mpirun of HorovodRunner."""
    return int(
        next(os.environ[name] for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK") if name in os.environ)
    )


class HorovodWorker(WatchedWorker):
    """Talks through Horovod, which takes NCCL for what lies on GPUs where it was built with it; gradients go in one grouped
    all-reduce inside TensorFlow's graph."""

    def __init__(self, hvd, tf, agent: Agent):
        self._hvd, self._tf, self.agent = hvd, tf, agent
        self.rank, self.size = hvd.rank(), hvd.size()
        with tf.device("/cpu:0"):
            self._seconds = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    def all_reduce_mean_gradients(self, gradients: list) -> list:
        if self.size == 1:
            return gradients
        tf = self._tf
        # By its dependencies the graph looks at the clock when the last gradient is there, and when the last mean is.
        with tf.control_dependencies(gradients):
            began = tf.timestamp()
        with tf.control_dependencies([began]):
            gradients = [tf.identity(gradient) for gradient in gradients]
        means = self._hvd.grouped_allreduce(gradients, op=self._hvd.Average)
        with tf.control_dependencies(means):
            self._seconds.assign_add(tf.timestamp() - began)
        return means

    def all_reduce_seconds(self) -> float:
        return float(self._seconds.numpy())

    def all_reduce_mean_tensor(self, tensor):
        return self._hvd.allreduce(tensor, op=self._hvd.Average)

    def all_reduce_mean(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        reduced = self._hvd.grouped_allreduce([np.asarray(array) for array in arrays], op=self._hvd.Average)
        return [tensor.numpy() for tensor in reduced]

    def broadcast(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [self._hvd.broadcast(np.asarray(array), root_rank=0).numpy() for array in arrays]

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        return self._hvd.allgather(np.asarray(array)).numpy()
