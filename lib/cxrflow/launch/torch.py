"""Workers started by Spark's own TorchDistributor, one a Spark task slot, with torch under Keras."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

import numpy as np

from cxrflow.config import TrainConfig
from cxrflow.launch.progress import Address, ProgressListener, connect
from cxrflow.launch.worker import Worker
from cxrflow.watch.terminal import show


def launch(function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, spark=None,
           record: Callable[[dict], None] = show) -> dict:
    from pyspark.ml.torch.distributor import TorchDistributor

    threads = spark.conf.get("spark.task.cpus", "1")
    distributor = TorchDistributor(num_processes=config.workers, local_mode=False, use_gpu=False)
    with ProgressListener(spark.conf.get("spark.driver.host"), record) as progress:
        return distributor.run(_main, function, config, int(threads), progress.address)


def _main(function, config: TrainConfig, threads: int, progress: Address) -> dict:
    # Before Keras and torch are loaded: each worker owns the cores of its task slot and no more.
    os.environ.update(KERAS_BACKEND="torch", OMP_NUM_THREADS=str(threads), TF_CPP_MIN_LOG_LEVEL="2")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(threads)
    dist.init_process_group("gloo")
    try:
        result = function(config, TorchWorker(progress))
        # Torch's threads now and then outlive the objects that own them while the process ends, which aborts it after
        # its work is done. So it leaves before that, once TorchDistributor's script has saved the result.
        atexit.register(_leave)
        return result
    finally:
        dist.destroy_process_group()  # left open, torch ends the process with a noisy warning


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class TorchWorker(Worker):
    """Talks through torch.distributed; gradients go as one flat tensor."""

    def __init__(self, progress: Address):
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ["LOCAL_RANK"])
        if self.rank == 0:
            self.tell = connect(progress)

    def average_gradients(self, gradients: list) -> list:
        import torch
        import torch.distributed as dist

        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]

    def average(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        import torch

        if not arrays:
            return []
        averaged = self.average_gradients([torch.tensor(array) for array in arrays])
        return [tensor.numpy() for tensor in averaged]

    def broadcast(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        import torch
        import torch.distributed as dist

        tensors = [torch.tensor(array) for array in arrays]
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
        return [tensor.numpy() for tensor in tensors]

    def gather(self, array: np.ndarray) -> np.ndarray:
        import torch.distributed as dist

        parts: list = [None] * self.size
        dist.all_gather_object(parts, array)
        return np.concatenate(parts)
