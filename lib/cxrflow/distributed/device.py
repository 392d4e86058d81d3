"""The device that a worker computes on: one GPU per process, or the CPU. Imports frameworks only when it asks them."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from cxrflow.base.errors import UserError


def choose_gpu(device: str, gpus: int, index: int) -> int | None:
    """The number of the GPU that a worker takes, of the ``gpus`` that its framework sees; None means the CPU.

    ``index`` numbers the workers that see the same GPUs: the local rank, or 0 if Spark has assigned GPUs to the task.
    Raises UserError if no GPU is left for this worker. That includes ``auto``, because one worker on a CPU would slow
    down all others at every step.
    """
    if device == "cpu" or (device == "auto" and gpus == 0):
        return None
    host = socket.gethostname()
    if gpus == 0:
        raise UserError(
            f"--device gpu: expected a GPU that this framework can use on {host}, found none; install the CUDA build "
            "and the driver there, for the torch launcher have Spark assign GPUs to tasks "
            "(spark.task.resource.gpu.amount=1), or use --device cpu"
        )
    if index >= gpus:
        raise UserError(
            f"--device {device}: expected a GPU for each worker on {host}, found {gpus} for worker {index + 1} of "
            "that machine; have Spark start fewer workers there (spark.task.resource.gpu.amount=1, "
            "spark.executor.cores, spark.task.cpus), or use --device cpu"
        )
    return index


def pin(backend: str, device: str, index: int) -> int:
    """Restrict this process to its GPU, or to the CPU. Call it before Keras is imported.

    Args: ``backend`` of Keras; ``device`` and ``index`` as in ``choose_gpu``.
    Returns: the number of GPUs that the framework saw, 0 if this process uses none.
    """
    if backend not in PIN:
        raise UserError(f"KERAS_BACKEND: expected one of {', '.join(PIN)}; got {backend!r}")
    return PIN[backend](device, index)


def _pin_tensorflow(device: str, index: int) -> int:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    number = choose_gpu(device, len(gpus), index)
    chosen = [] if number is None else [gpus[number]]
    tf.config.set_visible_devices(chosen, "GPU")
    with suppress(RuntimeError):  # a notebook's process may use the GPU already
        for gpu in chosen:  # otherwise TensorFlow allocates all of its memory at once
            tf.config.experimental.set_memory_growth(gpu, True)
    return len(gpus) if chosen else 0


def _pin_torch(device: str, index: int) -> int:
    import torch

    gpus = torch.cuda.device_count()
    number = choose_gpu(device, gpus, index)
    os.environ["KERAS_TORCH_DEVICE"] = "cpu" if number is None else "cuda"  # "cuda" is the device that is set next
    if number is None:
        return 0
    torch.cuda.set_device(number)
    return gpus


PIN = {"tensorflow": _pin_tensorflow, "torch": _pin_torch}
