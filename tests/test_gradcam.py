"""Grad-CAM of a predictor with the structure of a real one: a nested network, test-time augmentation, a temperature."""

import subprocess
import sys

import numpy as np
import pytest

from cxrflow.report.gradcam import compute_heatmaps

pytestmark = pytest.mark.spark  # processes with Keras

SAVE = """
import sys, keras, numpy
from keras import layers
pixels = keras.Input((12, 16, 1))
x = layers.Conv2D(2, 3, padding="same", use_bias=False)(layers.Rescaling(1 / 255)(pixels))
features = layers.ReLU(name="features")(x)
logits = layers.Dense(2, use_bias=False)(layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(features)))
network = keras.Model(pixels, logits, name="network")
kernel = numpy.zeros((3, 3, 1, 2)); kernel[1, 1, 0] = 1, -1  # channel 0: bright pixels; channel 1: nothing after ReLU
network.set_weights([kernel, numpy.array([[-1.0, 1.0], [0.0, 0.0]])])
image = keras.Input((12, 16, 1), name="pixels")
moved = layers.ZeroPadding2D(((0, 0), (2, 0)))(layers.Cropping2D(((0, 0), (0, 2)))(image))
logits = layers.Average()([network(image), network(moved)])
# One model with scores of exactly 0 and 1, and one without our layer of logits.
for name, factor in (("calibration", 1000.0), ("another", 1 / 1.7)):
    scores = layers.Activation("softmax", dtype="float32")(layers.Rescaling(factor, name=name)(logits))
    keras.Model(image, scores).save(f"{sys.argv[1]}/{name}.keras")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradcam")
    subprocess.run([sys.executable, "-c", SAVE, str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("name", "backend"), [("calibration", "tensorflow"), ("calibration", "torch"), ("another", "torch")]
)
def test_heat_follows_the_only_feature(models, name, backend):
    image = np.zeros((12, 16), np.uint8)
    image[2:6, 4:8], image[8:10, 10:14] = 250, 100
    found = compute_heatmaps(str(models / f"{name}.keras"), backend, False, np.stack([image, image]), np.array([1, 0]))
    assert (found.layer, found.parameters, found.heat.shape) == ("features", 22, (2, 12, 16))
    # Brightness is the only feature. It is evidence for label 1 everywhere, and for label 0 nowhere.
    np.testing.assert_allclose(found.heat[0], image / 250, atol=1e-5)
    assert not found.heat[1].any()


def test_model_that_does_not_load_is_a_reason(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"no model")
    pixels, labels = np.zeros((1, 4, 4), np.uint8), np.array([0])
    assert "model.keras" in compute_heatmaps(str(tmp_path / "model.keras"), "torch", False, pixels, labels)
