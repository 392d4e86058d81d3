"""Where workers are placed: a pure function, and what it comes to on a machine without GPUs."""

import os
import subprocess
import sys

import pytest

from cxrflow.errors import UserError
from cxrflow.launch.device import choose_gpu


@pytest.mark.parametrize(("device", "gpus", "local_rank", "owned", "expected"), [
    ("auto", 0, 3, False, None),  # any number of workers share a CPU
    ("cpu", 4, 1, False, None),
    ("auto", 4, 0, False, 0),
    ("gpu", 4, 3, False, 3),
    ("gpu", 1, 0, False, 0),
    ("gpu", 1, 3, True, 0),  # Spark gave each task one of its own, and each calls it the first
    ("auto", 2, 1, True, 0),
])
def test_one_worker_a_gpu(device, gpus, local_rank, owned, expected):
    assert choose_gpu(device, gpus, local_rank, owned) == expected


@pytest.mark.parametrize(("device", "gpus", "local_rank", "words"), [
    ("gpu", 0, 0, "expected a GPU that this framework can use on .*, found none"),
    ("gpu", 2, 2, "--device gpu: expected a GPU for each worker on .*, found 2 for worker 3"),
    ("auto", 1, 1, "--device auto: expected a GPU for each worker on .*, found 1 for worker 2"),
])
def test_a_worker_without_a_gpu_is_refused(device, gpus, local_rank, words):
    with pytest.raises(UserError, match=words):
        choose_gpu(device, gpus, local_rank)


PIN = """
import sys
from cxrflow.launch.device import pin
backend, device = sys.argv[1:]
print(pin(backend, device, 1))
import keras
print(keras.ops.sum(keras.ops.ones(3)).device)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_keras_computes_where_the_worker_was_placed(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", PIN, backend, "auto"], env=environment, capture_output=True, text=True,
                          check=True)
    placed, device = done.stdout.split()
    assert placed == "False" and "cpu" in device.lower()
