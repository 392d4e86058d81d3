"""Which device a worker computes on: one process a GPU, or the CPU. Frameworks are loaded where they are asked."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from cxrflow.base.errors import UserError


def choose_gpu(device: str, gpus: int, place: int) -> int | None:
    """The GPU of a worker, of the ``gpus`` that its framework sees, by number; None for the CPU.

    ``place``: which of the workers it is that see the same GPUs: its local rank, or 0 where Spark gave its task GPUs of
    its own. Raises UserError where there is none left for it, also with ``auto``: a worker on a CPU would have all others wait
    at every step.
    """
    if device == "cpu" or (device == "auto" and gpus == 0):
        return None
    host = socket.gethostname()
    if gpus == 0:
        raise UserError(
            f"--device gpu: expected a GPU that this framework can use on {host}, found none; install its build "
            "for CUDA and the driver there, for the torch launcher have Spark give GPUs to tasks "
            "(spark.task.resource.gpu.amount=1), or use --device cpu"
        )
    if place >= gpus:
        raise UserError(
            f"--device {device}: expected a GPU for each worker on {host}, found {gpus} for worker {place + 1} of "
            "that machine; have Spark start fewer there (spark.task.resource.gpu.amount=1, spark.executor.cores, "
            "spark.task.cpus), or use --device cpu"
        )
    return place


def pin(backend: str, device: str, place: int) -> int:
    """Have this process use its GPU and no other, or none; how many it saw, 0 where it uses none. Before Keras is loaded;
    ``device`` and ``place`` as in ``choose_gpu``."""
    if backend not in PIN:
        raise UserError(f"KERAS_BACKEND: expected one of {', '.join(PIN)}; got {backend!r}")
    return PIN[backend](device, place)


def _pin_tensorflow(device: str, place: int) -> int:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    number = choose_gpu(device, len(gpus), place)
    chosen = [] if number is None else [gpus[number]]
    tf.config.set_visible_devices(chosen, "GPU")
    with suppress(RuntimeError):  # of a notebook's process, which may have begun to use it
        for gpu in chosen:  # otherwise TensorFlow takes all of its memory at once
            tf.config.experimental.set_memory_growth(gpu, True)
    return len(gpus) if chosen else 0


def _pin_torch(device: str, place: int) -> int:
    import torch

    gpus = torch.cuda.device_count()
    number = choose_gpu(device, gpus, place)
    os.environ["KERAS_TORCH_DEVICE"] = "cpu" if number is None else "cuda"  # which means the one that is set next
    if number is None:
        return 0
    torch.cuda.set_device(number)
    return gpus


PIN = {"tensorflow": _pin_tensorflow, "torch": _pin_torch}
