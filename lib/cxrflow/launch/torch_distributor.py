"""Workers started by Spark's own TorchDistributor, one a Spark task slot, with torch under Keras."""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import time
from collections.abc import Callable

import numpy as np

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.agent import Agent
from cxrflow.distributed.connection import Address
from cxrflow.distributed.device import pin
from cxrflow.distributed.netif import interface_towards
from cxrflow.distributed.worker import WatchedWorker, Worker
from cxrflow.launch import load_packages
from cxrflow.launch.portable import portable


class TorchLaunch:
    """One launch, which another thread can cancel."""

    def __init__(self, spark, config: TrainConfig, driver: Address):
        self._spark, self._config, self._driver = spark, config, driver
        self._group = f"cxrflow torch {secrets.token_hex(8)}"
        load_packages("pyspark.ml.torch.distributor", "pandas")  # which mapInArrow wants

    def run(self, function: Callable[[TrainConfig, Worker], dict]) -> dict:
        """What rank 0 returned. Raises RuntimeError where a worker ended otherwise."""
        from pyspark.ml.torch.distributor import TorchDistributor

        self._spark.sparkContext.setJobGroup(self._group, "cxrflow training", interruptOnCancel=True)
        threads = int(self._spark.conf.get("spark.task.cpus", "1"))
        # With it TorchDistributor shows each worker the GPUs that Spark gave its task, and without it none.
        use_gpu = (
            self._config.device != "cpu" and float(self._spark.conf.get("spark.task.resource.gpu.amount", "0")) > 0
        )
        distributor = TorchDistributor(num_processes=self._config.workers, local_mode=False, use_gpu=use_gpu)
        return distributor.run(portable(self._spark, worker_main, function, self._config, threads, self._driver))

    def cancel(self) -> None:
        """Have ``run`` end soon, if it can."""
        self._spark.sparkContext.cancelJobGroup(self._group)


def worker_main(
    function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, threads: int, driver: Address
) -> dict:
    """What a worker's process does."""
    with Agent(driver, int(os.environ["RANK"])) as agent:
        # Before Keras and torch are loaded: each worker owns the cores of its task slot and no more.
        os.environ.update(KERAS_BACKEND="torch", OMP_NUM_THREADS=str(threads), TF_CPP_MIN_LOG_LEVEL="2")
        import torch
        import torch.distributed as dist

        torch.set_num_threads(threads)
        # Otherwise gloo takes the address that this machine's own name has here, which is 127.x on many.
        if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(os.environ["MASTER_ADDR"])):
            os.environ["GLOO_SOCKET_IFNAME"] = name
        gpus = pin("torch", config.device, int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")  # statistics and plain data stay on CPUs
        from cxrflow.training.keras_patches import prepare_torch_process

        prepare_torch_process()
        try:
            result = function(config, TorchWorker(agent))
            # Torch's threads now and then outlive the objects that own them while the process ends, which aborts it
            # after its work is done. So it leaves before that, once TorchDistributor's script has saved the result.
            atexit.register(_leave)
            return result
        finally:
            dist.destroy_process_group()  # left open, torch ends the process with a noisy warning


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _now(tensor) -> float:
    """The time, once the tensor is computed: what goes to a GPU is only begun otherwise."""
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize()
    return time.monotonic()


def _split(flat, like: list) -> list:
    """A flat tensor as tensors of the same shapes as others."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def _flowing(average: Callable) -> type:
    """An average over the workers through which gradients flow; torch's own is deprecated."""
    import torch

    class Flowing(torch.autograd.Function):
        @staticmethod
        def forward(context, tensor):
            return average(tensor.clone())

        @staticmethod
        def backward(context, gradient):  # each worker's number is in every worker's mean
            return average(gradient.clone())

    return Flowing


class TorchWorker(WatchedWorker):
    """Talks through torch.distributed; gradients go as one flat tensor."""

    def __init__(self, agent: Agent):
        import torch.distributed as dist

        self.agent, self._seconds = agent, 0.0
        self._flowing = _flowing(self._average)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_reduce_mean_gradients(self, gradients: list) -> list:
        import torch

        if self.size == 1:
            return gradients
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        began = _now(flat)
        flat = self._average(flat)
        self._seconds += _now(flat) - began
        return _split(flat, gradients)

    def _average(self, flat):
        import torch.distributed as dist

        dist.all_reduce(flat)
        return flat.div_(self.size)

    def all_reduce_seconds(self) -> float:
        return self._seconds

    def all_reduce_mean_tensor(self, tensor):
        return self._flowing.apply(tensor)

    def all_reduce_mean(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        import torch

        if not arrays:
            return []
        tensors = [torch.tensor(array) for array in arrays]
        flat = self._average(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        return [tensor.numpy() for tensor in _split(flat, tensors)]

    def broadcast(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        import torch
        import torch.distributed as dist

        tensors = [torch.tensor(array) for array in arrays]
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
        return [tensor.numpy() for tensor in tensors]

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        import torch.distributed as dist

        parts: list = [None] * self.size
        dist.all_gather_object(parts, array)
        return np.concatenate(parts)
