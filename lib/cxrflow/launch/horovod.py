"""Workers started by ``horovod.spark.run``, one a Spark task slot, with TensorFlow under Keras."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import numpy as np

from cxrflow.config import TrainConfig
from cxrflow.launch.progress import Address, ProgressListener, connect
from cxrflow.launch.worker import Worker
from cxrflow.watch.terminal import show

START_SECONDS = 120


def launch(function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, spark=None,
           record: Callable[[dict], None] = show) -> dict:
    import horovod.spark

    threads = spark.conf.get("spark.task.cpus", "1")
    with ProgressListener(spark.conf.get("spark.driver.host"), record) as progress:
        results = horovod.spark.run(
            _main, args=(function, config, int(threads), progress.address), num_proc=config.workers,
            start_timeout=START_SECONDS, stdout=sys.stderr, stderr=sys.stderr, verbose=0, use_gloo=True,
            env={"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"})
    return results[0]


def _main(function, config: TrainConfig, threads: int, progress: Address) -> dict:
    # Before TensorFlow is loaded: each worker owns the cores of its task slot and no more.
    os.environ.update(KERAS_BACKEND="tensorflow", OMP_NUM_THREADS=str(threads), TF_CPP_MIN_LOG_LEVEL="2")
    import horovod.tensorflow as hvd
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    hvd.init()
    try:
        return function(config, HorovodWorker(hvd, progress))
    finally:
        hvd.shutdown()


class HorovodWorker(Worker):
    """Talks through Horovod; gradients go in one grouped all-reduce inside TensorFlow's graph."""

    def __init__(self, hvd, progress: Address):
        self._hvd = hvd
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        if self.rank == 0:
            self.tell = connect(progress)

    def average_gradients(self, gradients: list) -> list:
        return self._hvd.grouped_allreduce(gradients, op=self._hvd.Average)

    def average(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        reduced = self._hvd.grouped_allreduce([np.asarray(array) for array in arrays], op=self._hvd.Average)
        return [tensor.numpy() for tensor in reduced]

    def broadcast(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [self._hvd.broadcast(np.asarray(array), root_rank=0).numpy() for array in arrays]

    def gather(self, array: np.ndarray) -> np.ndarray:
        return self._hvd.allgather(np.asarray(array)).numpy()
