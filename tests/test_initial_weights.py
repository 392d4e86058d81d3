"""Initial weights: the same on both backends, with the distributions of the layers' initializers."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.spark

DRAW = """
import sys
import keras, numpy as np
from cxrflow.training.initial_weights import drawn_by_numpy

def build():
    inputs = keras.Input((32, 32, 3))
    x = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, include_top=False)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    names = ("he_normal", "lecun_uniform", "random_normal", "random_uniform", "truncated_normal", "orthogonal")
    for initializer in (*names, keras.initializers.Constant(0.5)):
        x = keras.layers.Dense(128, kernel_initializer=initializer)(x)
    return keras.Model(inputs, keras.layers.EinsumDense("bi,ijk->bjk", (16, 16))(x))

with drawn_by_numpy(7):
    model = build()
with drawn_by_numpy(7):
    again = build()
own = build()  # outside the block, drawn by Keras
arrays = {}
for kind, built in (("drawn", model), ("again", again), ("own", own)):
    for index, weight in enumerate(built.weights):
        arrays[f"{kind}{index:03d}"] = keras.ops.convert_to_numpy(weight)
np.savez(sys.argv[1], **arrays)
"""


def draw(backend, path):
    subprocess.run([sys.executable, "-c", DRAW, str(path)], check=True, env={**os.environ, "KERAS_BACKEND": backend})
    with np.load(path) as content:
        return {
            kind: [content[name] for name in content.files if name.startswith(kind)]
            for kind in ("drawn", "again", "own")
        }


def test_weights_are_the_same_on_both_backends_and_distributed_like_keras_own(tmp_path):
    found = {backend: draw(backend, tmp_path / f"{backend}.npz") for backend in ("tensorflow", "torch")}
    orthogonal = [
        weights.shape == (128, 128) and np.allclose(weights.T @ weights, np.eye(128), atol=1e-4)
        for weights in found["torch"]["drawn"]
    ]
    assert sum(orthogonal) == 1  # drawn by Keras
    for kind in ("drawn", "again"):
        for left, first, right in zip(orthogonal, found["tensorflow"]["drawn"], found["torch"][kind], strict=True):
            assert left or np.array_equal(first, right)
    large = 0
    for drawn, own in zip(found["torch"]["drawn"], found["tensorflow"]["own"], strict=True):
        assert drawn.dtype == np.float32
        if own.std() == 0:  # biases, gammas, constants
            assert np.array_equal(drawn, own)
        elif own.size > 4000:
            large += 1
            assert 0.95 < drawn.std() / own.std() < 1.05
            assert np.abs(drawn).max() / np.abs(own).max() < 1.3 and abs(drawn.mean()) < 0.05 * own.std()
            assert not np.array_equal(drawn, own)
    assert large > 10
