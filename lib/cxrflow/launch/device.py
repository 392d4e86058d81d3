"""Which device a worker computes on: one process a GPU, or the CPU. Frameworks are loaded where they are asked."""

from __future__ import annotations

import os
import socket

from cxrflow.errors import UserError


def choose_gpu(device: str, gpus: int, local_rank: int, owned: bool = False) -> int | None:
    """The GPU of a worker, of the ``gpus`` that its framework sees, by number; None for the CPU.

    ``owned``: it sees no others than those which Spark gave its task (``spark.task.resource.gpu.amount``); otherwise the
    machine's workers share out what there is by their ``local_rank``. Raises UserError where there is none left for it, also
    with ``auto``: a worker on a CPU would have all others wait at every step.
    """
    if device == "cpu" or (device == "auto" and gpus == 0):
        return None
    host = socket.gethostname()
    if gpus == 0:
        raise UserError(f"--device gpu: expected a GPU that this framework can use on {host}, found none; install its build "
                        "for CUDA and the driver there, with Spark's GPU scheduling set spark.task.resource.gpu.amount=1 (the "
                        "torch launcher needs that), or use --device cpu")
    number = 0 if owned else local_rank
    if number >= gpus:
        raise UserError(f"--device {device}: expected a GPU for each worker on {host}, found {gpus} for worker {local_rank + 1} "
                        "of that machine; start fewer workers a machine (spark.executor.cores, spark.task.cpus, or "
                        "spark.task.resource.gpu.amount=1), or use --device cpu")
    return number


def pin(backend: str, device: str, local_rank: int, owned: bool = False) -> bool:
    """Have this process use its GPU and no other, or none; whether it has one. Before Keras is loaded."""
    return PIN[backend](device, local_rank, owned)


def _pin_tensorflow(device: str, local_rank: int, owned: bool) -> bool:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    number = choose_gpu(device, len(gpus), local_rank, owned)
    chosen = [] if number is None else [gpus[number]]
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:  # otherwise it takes all of the memory, which others may want to share
        tf.config.experimental.set_memory_growth(gpu, True)
    return bool(chosen)


def _pin_torch(device: str, local_rank: int, owned: bool) -> bool:
    import torch

    number = choose_gpu(device, torch.cuda.device_count() if torch.cuda.is_available() else 0, local_rank, owned)
    os.environ["KERAS_TORCH_DEVICE"] = "cpu" if number is None else "cuda"
    if number is not None:
        torch.cuda.set_device(number)
    return number is not None


PIN = {"tensorflow": _pin_tensorflow, "torch": _pin_torch}
