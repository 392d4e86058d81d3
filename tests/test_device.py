"""Where workers are placed: a pure function, and what it comes to on a machine without GPUs."""

import os
import subprocess
import sys

import pytest

from cxrflow.base.errors import UserError
from cxrflow.distributed.device import choose_gpu


@pytest.mark.parametrize(
    ("device", "gpus", "place", "expected"),
    [
        ("auto", 0, 3, None),  # any number of workers share a CPU
        ("cpu", 4, 1, None),
        ("auto", 4, 0, 0),
        ("gpu", 4, 3, 3),
        ("gpu", 1, 0, 0),
    ],
)
def test_one_worker_a_gpu(device, gpus, place, expected):
    assert choose_gpu(device, gpus, place) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "place", "words"),
    [
        ("gpu", 0, 0, "expected a GPU that this framework can use on .*, found none"),
        ("gpu", 2, 2, "--device gpu: expected a GPU for each worker on .*, found 2 for worker 3"),
        ("auto", 1, 1, "--device auto: expected a GPU for each worker on .*, found 1 for worker 2"),
    ],
)
def test_a_worker_without_a_gpu_is_refused(device, gpus, place, words):
    with pytest.raises(UserError, match=words):
        choose_gpu(device, gpus, place)


PIN = """
import sys
from cxrflow.distributed.device import pin
backend, device = sys.argv[1:]
print(pin(backend, device, 1))
import keras
print(keras.ops.sum(keras.ops.ones(3)).device)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_keras_computes_where_the_worker_was_placed(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", PIN, backend, "auto"], env=environment, capture_output=True, text=True, check=True
    )
    placed, device = done.stdout.split()
    assert placed == "0" and "cpu" in device.lower()
