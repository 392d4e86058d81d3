"""The average of the weights and the model that is saved, on both backends: a process of each."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys
import keras, numpy as np
from cxrflow.training.weight_average import WeightAverage
from cxrflow.training.predictor import VIEWS, build_predictor, show_views

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
number = keras.ops.convert_to_numpy
found = {}

# Weights that walk as they are told, beside the average by its formula.
inputs = keras.Input((3,))
model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Dense(2)(inputs)))
walk = [[rng.normal(size=weight.shape) for weight in model.weights] for _ in range(60)]
model.set_weights(walk[0])
average, wanted = WeightAverage(model, epochs=1.0, steps_per_epoch=10), walk[0]
average.begin(0)
for step, weights in enumerate(walk[1:], start=1):
    model.set_weights(weights)
    average.update()
    decay = min(np.exp(-1 / 10), (1 + step / 10) / (10 + step / 10))
    wanted = [decay * old + (1 - decay) * new for old, new in zip(wanted, weights)]
with average.applied():
    found["average"] = [float(abs(mine - own).max()) for mine, own in zip(model.get_weights(), wanted)]
    model.weights[0].assign(np.ones(model.weights[0].shape))
found["live"] = [float(abs(mine - own).max()) for mine, own in zip(model.get_weights(), walk[-1])]
with average.applied():
    found["changed"] = float(number(model.weights[0]).min())
counting = keras.Model(inputs, keras.layers.Normalization()(inputs))  # which has a whole number among its weights
WeightAverage(counting, epochs=1.0, steps_per_epoch=10).update()
off = WeightAverage(model, epochs=0, steps_per_epoch=10)
off.update()
with off.applied():
    found["off"] = [float(abs(mine - own).max()) for mine, own in zip(model.get_weights(), walk[-1])]

# A network whose logits say what it was shown: the mean of the middle, and that of the margin.
pixels = keras.Input((40, 36, 1))
middle = keras.layers.GlobalAveragePooling2D()(keras.layers.Cropping2D(16)(pixels))
whole = keras.layers.GlobalAveragePooling2D()(pixels)
network = keras.Model(pixels, keras.layers.Concatenate()([middle, whole]), name="network")
image = np.zeros((1, 40, 36, 1), np.uint8)
image[:, 10:30, 9:27] = 4  # half as high and as wide, so a quarter of the mean, and of each view as much as its area grows
logits = number(show_views(network, 5)(image))
found["views"] = [logits[0].tolist(), [4.0, float(np.mean([high * wide for high, wide in VIEWS[5]]))]]
for views in VIEWS:
    for activation in ("softmax", "sigmoid"):
        model = build_predictor(show_views(network, views), 2.0, activation)
        model.save(place := f"{sys.argv[1]}/{views}-{activation}.keras")
        scores = number(keras.saving.load_model(place, safe_mode=True)(image))[0]
        logits = number(show_views(network, views)(image))[0] / 2.0
        exact = 1 / (1 + np.exp(-logits)) if activation == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
        found[f"{views} {activation}"] = float(abs(scores - exact).max())
        assert model.get_layer("network") is network
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=["tensorflow", "torch"])
def found(request, tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path_factory.mktemp(request.param))],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": request.param},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_average_is_its_formulas_and_the_model_is_left_as_it_was(found):
    assert max(found["average"]) < 1e-6 and max(found["live"]) < 1e-7 and max(found["off"]) < 1e-7
    assert found["changed"] == 1.0  # what a block changes of the average stays


def test_views_are_of_the_sizes_said_and_scores_are_of_their_mean(found):
    seen, wanted = found["views"]
    assert seen == pytest.approx(wanted, rel=0.03)
    assert max(found[f"{views} {activation}"] for views in (1, 5) for activation in ("softmax", "sigmoid")) < 1e-6
