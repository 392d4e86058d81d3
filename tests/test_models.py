"""Networks by name, on both backends; their files, where cxrflow is not; initial weights."""

import json
import os
import subprocess
import sys

import pytest

from cxrflow.errors import UserError
from cxrflow.training.models import MODELS, check_model

NAMES = [*MODELS, "applications/MobileNetV3Small", "test_models:own"]
HEIGHT, WIDTH = 64, 48

# Each network: a step of training that changes every weight, its file, and scores of the file's model.
STEP = """
import json, sys
import keras, numpy
from cxrflow.training.models import build_model
folder, size = sys.argv[1], tuple(map(int, sys.argv[2:4]))
rng = numpy.random.default_rng(0)
pixels, targets = rng.integers(0, 256, (4, *size, 1), numpy.uint8), numpy.eye(3, dtype="float32")[[0, 1, 2, 0]]
found = {}
for number, name in enumerate(sys.argv[4:]):
    model = build_model(name, 3, size, size)
    model.compile("adam", "categorical_crossentropy", run_eagerly=True)
    before = [numpy.copy(weight) for weight in map(keras.ops.convert_to_numpy, model.trainable_weights)]
    loss = float(model.train_on_batch(pixels, targets))
    moved = [bool((old != keras.ops.convert_to_numpy(new)).any()) for old, new in zip(before, model.trainable_weights)]
    model.save(f"{folder}/{number}.keras")
    scores = keras.ops.convert_to_numpy(model(pixels, training=False))
    found[name] = {"loss": loss, "moved": sum(moved) / len(moved), "scores": scores.tolist()}
numpy.save(f"{folder}/pixels.npy", pixels)
print(json.dumps(found))
"""
LOAD = """
import json, sys
import keras, numpy
pixels = numpy.load(f"{sys.argv[1]}/pixels.npy")
models = [keras.saving.load_model(f"{sys.argv[1]}/{number}.keras", safe_mode=True) for number in range(int(sys.argv[2]))]
print(json.dumps([keras.ops.convert_to_numpy(model(pixels, training=False)).tolist() for model in models]))
assert "cxrflow" not in sys.modules
"""


def own(x):
    from keras import layers

    return layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, strides=2)(x) * 2.0)


def python(code, *arguments, backend="tensorflow", **environment):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "KERAS_BACKEND": backend, **environment}, cwd=os.path.dirname(__file__))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_every_network_trains_and_its_file_loads_without_cxrflow(tmp_path, backend):
    trained = python(STEP, tmp_path, HEIGHT, WIDTH, *NAMES, backend=backend)
    other = {"tensorflow": "torch", "torch": "tensorflow"}[backend]
    loaded = python(LOAD, tmp_path, len(NAMES), backend=other, PYTHONPATH="")
    for name, scores in zip(NAMES, loaded, strict=True):
        assert 0 < trained[name]["loss"] < 10 and trained[name]["moved"] > 0.9, name
        assert scores == [pytest.approx(row, abs=2e-4) for row in trained[name]["scores"]], name
