"""The average of the weights and the saved model, on both backends, in a process each."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.spark

CODE = """
import json, sys
import keras, numpy as np
from cxrflow.training.weight_average import WeightAverage
from cxrflow.training.predictor import TTA_SCALES, build_predictor, average_tta_copies

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
number = keras.ops.convert_to_numpy
found = {}

# Weights that change as given, and their average by its formula.
inputs = keras.Input((3,))
model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Dense(2)(inputs)))
walk = [[rng.normal(size=weight.shape) for weight in model.weights] for _ in range(60)]
model.set_weights(walk[0])
average, expected = WeightAverage(model, epochs=1.0, steps_per_epoch=10), walk[0]
average.begin(0)
for step, weights in enumerate(walk[1:], start=1):
    model.set_weights(weights)
    average.update()
    decay = min(np.exp(-1 / 10), (1 + step / 10) / (10 + step / 10))
    expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights)]
with average.applied():
    found["average"] = [float(abs(mine - own).max()) for mine, own in zip(model.get_weights(), expected)]
    model.weights[0].assign(np.ones(model.weights[0].shape))
found["live"] = [float(abs(mine - own).max()) for mine, own in zip(model.get_weights(), walk[-1])]
with average.applied():
    found["changed"] = float(number(model.weights[0]).min())
counting = keras.Model(inputs, keras.layers.Normalization()(inputs))  # it has an integer weight
WeightAverage(counting, epochs=1.0, steps_per_epoch=10).update()
off = WeightAverage(model, epochs=0, steps_per_epoch=10)
off.update()
with off.applied():
    found["off"] = [float(abs(mine - own).max()) for mine, own in zip(model.get_weights(), walk[-1])]

# A network whose logits are the mean of the image's centre and of the whole image.
pixels = keras.Input((40, 36, 1))
middle = keras.layers.GlobalAveragePooling2D()(keras.layers.Cropping2D(16)(pixels))
whole = keras.layers.GlobalAveragePooling2D()(pixels)
network = keras.Model(pixels, keras.layers.Concatenate()([middle, whole]), name="network")
image = np.zeros((1, 40, 36, 1), np.uint8)
# Half as high and as wide, so the mean is 1, and in each TTA copy as much more as its area grows.
image[:, 10:30, 9:27] = 4
logits = number(average_tta_copies(network, 5)(image))
found["tta"] = [logits[0].tolist(), [4.0, float(np.mean([high * wide for high, wide in TTA_SCALES[5]]))]]
for copies in TTA_SCALES:
    for activation in ("softmax", "sigmoid"):
        model = build_predictor(average_tta_copies(network, copies), 2.0, activation)
        model.save(path := f"{sys.argv[1]}/{copies}-{activation}.keras")
        scores = number(keras.saving.load_model(path, safe_mode=True)(image))[0]
        logits = number(average_tta_copies(network, copies)(image))[0] / 2.0
        exact = 1 / (1 + np.exp(-logits)) if activation == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
        found[f"{copies} {activation}"] = float(abs(scores - exact).max())
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


def test_the_average_follows_its_formula_and_the_model_stays_as_it_was(found):
    assert max(found["average"]) < 1e-6 and max(found["live"]) < 1e-7 and max(found["off"]) < 1e-7
    assert found["changed"] == 1.0  # a change of the average inside the block stays


def test_tta_copies_have_their_sizes_and_scores_come_from_their_mean(found):
    mean, expected = found["tta"]
    assert mean == pytest.approx(expected, rel=0.03)
    assert max(found[f"{copies} {activation}"] for copies in (1, 5) for activation in ("softmax", "sigmoid")) < 1e-6
