"""The device of each worker: a pure function, and its effect on a machine without GPUs."""

import os
import subprocess
import sys

import pytest

from cxrflow.base.errors import UserError
from cxrflow.distributed.device import choose_gpu


@pytest.mark.parametrize(
    ("device", "gpus", "index", "expected"),
    [
        ("auto", 0, 3, None),  # any number of workers share a CPU
        ("cpu", 4, 1, None),
        ("auto", 4, 0, 0),
        ("gpu", 4, 3, 3),
        ("gpu", 1, 0, 0),
    ],
)
def test_one_worker_per_gpu(device, gpus, index, expected):
    assert choose_gpu(device, gpus, index) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "index", "message"),
    [
        ("gpu", 0, 0, "expected a GPU that this framework can use on .*, found none"),
        ("gpu", 2, 2, "--device gpu: expected a GPU for each worker on .*, found 2 for worker 3"),
        ("auto", 1, 1, "--device auto: expected a GPU for each worker on .*, found 1 for worker 2"),
    ],
)
def test_a_worker_without_a_gpu_is_refused(device, gpus, index, message):
    with pytest.raises(UserError, match=message):
        choose_gpu(device, gpus, index)


PIN = """
import sys
from cxrflow.distributed.device import pin
backend, device = sys.argv[1:]
print(pin(backend, device, 1))
import keras
print(keras.ops.sum(keras.ops.ones(3)).device)
"""


@pytest.mark.spark
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_keras_computes_on_the_chosen_device(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", PIN, backend, "auto"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    gpus, device = done.stdout.split()
    assert gpus == "0" and "cpu" in device.lower()
