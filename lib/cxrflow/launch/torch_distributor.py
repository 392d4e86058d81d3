"""Workers started by Spark's own TorchDistributor, one per Spark task slot, with torch as Keras' backend."""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from cxrflow.base.config import TrainConfig
from cxrflow.base.framework_process import prepare_process
from cxrflow.base.keras_import import import_keras
from cxrflow.distributed.agent import Agent, MonitorEndpoint
from cxrflow.distributed.device import pin
from cxrflow.distributed.netif import interface_towards
from cxrflow.distributed.worker import MonitoredWorker, Tensor, Worker
from cxrflow.launch import load_packages
from cxrflow.launch.portable import portable


class TorchLaunch:
    """See ``launch.Launch``."""

    def __init__(self, spark: SparkSession, config: TrainConfig, monitor: MonitorEndpoint):
        self._spark, self._config, self._monitor = spark, config, monitor
        self._group = f"cxrflow torch {secrets.token_hex(8)}"
        load_packages("pyspark.ml.torch.distributor", "pandas")  # TorchDistributor's mapInArrow needs pandas

    def run(self, function: Callable[[TrainConfig, Worker], dict]) -> dict:
        """Rank 0's result. Raises RuntimeError if a worker fails."""
        from pyspark.ml.torch.distributor import TorchDistributor

        self._spark.sparkContext.setJobGroup(self._group, "cxrflow training", interruptOnCancel=True)
        threads = int(self._spark.conf.get("spark.task.cpus", "1"))
        # With use_gpu, TorchDistributor shows each worker the GPUs that Spark assigned to its task; without it, none.
        use_gpu = (
            self._config.device != "cpu" and float(self._spark.conf.get("spark.task.resource.gpu.amount", "0")) > 0
        )
        distributor = TorchDistributor(num_processes=self._config.workers, local_mode=False, use_gpu=use_gpu)
        return distributor.run(portable(self._spark, worker_main, function, self._config, threads, self._monitor))

    def cancel(self) -> None:
        """Make ``run`` end soon, if possible."""
        self._spark.sparkContext.cancelJobGroup(self._group)


def worker_main(
    function: Callable[[TrainConfig, Worker], dict], config: TrainConfig, threads: int, monitor: MonitorEndpoint
) -> dict:
    """Run in each worker's process: call ``function(config, worker)`` with ``threads`` CPU threads."""
    with Agent(monitor, int(os.environ["RANK"])) as agent:
        prepare_process("torch", threads)  # a worker uses the cores of its task slot and no more
        import torch
        import torch.distributed as dist

        torch.set_num_threads(threads)
        # Otherwise gloo uses the address that this machine's own name resolves to, which is often 127.x.
        if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(os.environ["MASTER_ADDR"])):
            os.environ["GLOO_SOCKET_IFNAME"] = name
        gpus = pin("torch", config.device, int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")  # NumPy arrays are exchanged on CPUs
        import_keras()
        from cxrflow.training.keras_patches import hide_tensorflow

        hide_tensorflow()
        try:
            result = function(config, TorchWorker(agent))
            # While a process exits, torch's threads sometimes outlive their owners and abort it, although training is
            # done. So exit before that, after TorchDistributor's script has saved the result.
            atexit.register(_exit_now)
            return result
        finally:
            dist.destroy_process_group()  # without this, torch prints a long warning at exit


def _exit_now() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _time_computed(tensor: Tensor) -> float:
    """The time after the tensor is computed, because GPU operations return before they end."""
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize()
    return time.monotonic()


def _unflatten(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Split a flat tensor into tensors of the same shapes as ``like``."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def _differentiable(average: Callable[[Tensor], Tensor]) -> Any:
    """A differentiable mean over the workers; torch's own collectives with gradients are deprecated."""
    import torch

    class AllReduceMean(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, tensor: Tensor) -> Tensor:
            return average(tensor.clone())

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:  # each worker's input is part of every worker's mean
            return average(gradient.clone())

    return AllReduceMean


class TorchWorker(MonitoredWorker):
    """Collectives of torch.distributed; gradients are averaged as one flat tensor."""

    def __init__(self, agent: Agent):
        import torch.distributed as dist

        self.agent, self._seconds, self._has_agreed = agent, 0.0, False
        self._all_reduce_mean = _differentiable(self._average)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_reduce_mean_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """See ``Worker``."""
        import torch

        if self.size == 1:
            return gradients
        if not self._has_agreed:  # in the first step only; TensorFlow's Horovod checks each step by itself
            self.require_agreement("all_reduce_mean_gradients", gradients)
            self._has_agreed = True
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        started = _time_computed(flat)
        flat = self._average(flat)
        self._seconds += _time_computed(flat) - started
        return _unflatten(flat, gradients)

    def _average(self, flat: Tensor) -> Tensor:
        import torch.distributed as dist

        dist.all_reduce(flat)
        return flat.div_(self.size)

    def all_reduce_seconds(self) -> float:
        """See ``Worker``."""
        return self._seconds

    def all_reduce_mean_tensor(self, tensor: Tensor) -> Tensor:
        """See ``Worker``."""
        return self._all_reduce_mean.apply(tensor)

    def all_reduce_mean(self, arrays: list[np.ndarray], names: Sequence[str] | None = None) -> list[np.ndarray]:
        """See ``Worker``."""
        import torch

        self.require_agreement("all_reduce_mean", arrays, names)
        if not arrays:
            return []
        tensors = [torch.tensor(array) for array in arrays]
        flat = self._average(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        return [tensor.numpy() for tensor in _unflatten(flat, tensors)]

    def broadcast(self, arrays: list[np.ndarray], names: Sequence[str] | None = None) -> list[np.ndarray]:
        """See ``Worker``."""
        import torch
        import torch.distributed as dist

        self.require_agreement("broadcast", arrays, names)
        tensors = [torch.tensor(array) for array in arrays]
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
        return [tensor.numpy() for tensor in tensors]

    def all_gather(self, array: np.ndarray, name: str | None = None) -> np.ndarray:
        """See ``Worker``."""
        import torch.distributed as dist

        self.require_agreement("all_gather", [array], [name or "array"], any_length=True)
        parts: list = [None] * self.size
        dist.all_gather_object(parts, array)
        return np.concatenate(parts)

    def _gather_equal(self, array: np.ndarray) -> np.ndarray:
        import torch
        import torch.distributed as dist

        own = torch.tensor(array)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return torch.stack(found).numpy()
