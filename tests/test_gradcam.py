"""Grad-CAM of a predictor that is made like the real ones: a network by name inside, several views, a temperature."""

import subprocess
import sys

import numpy as np
import pytest

from cxrflow.report.gradcam import compute_heatmaps

SAVE = """
import sys, keras, numpy
from keras import layers
pixels = keras.Input((12, 16, 1))
x = layers.Conv2D(2, 3, padding="same", use_bias=False)(layers.Rescaling(1 / 255)(pixels))
features = layers.ReLU(name="features")(x)
logits = layers.Dense(2, use_bias=False)(layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(features)))
network = keras.Model(pixels, logits, name="network")
kernel = numpy.zeros((3, 3, 1, 2)); kernel[1, 1, 0] = 1, -1  # bright places, and dark ones which ReLU leaves out
network.set_weights([kernel, numpy.array([[-1.0, 1.0], [0.0, 0.0]])])
views = keras.Input((12, 16, 1), name="pixels")
logits = layers.Average()([network(views), network(layers.ZeroPadding2D(((0, 0), (2, 0)))(layers.Cropping2D(((0, 0), (0, 2)))(views)))])
for name, factor in (("calibration", 1000.0), ("another", 1 / 1.7)):  # scores of exactly 0 and 1, and of another's model
    scores = layers.Activation("softmax", dtype="float32")(layers.Rescaling(factor, name=name)(logits))
    keras.Model(views, scores).save(f"{sys.argv[1]}/{name}.keras")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("gradcam")
    subprocess.run([sys.executable, "-c", SAVE, str(place)], check=True, capture_output=True)
    return place


@pytest.mark.parametrize(
    ("name", "backend"), [("calibration", "tensorflow"), ("calibration", "torch"), ("another", "torch")]
)
def test_what_speaks_for_a_label_is_where_it_must_be(models, name, backend):
    image = np.zeros((12, 16), np.uint8)
    image[2:6, 4:8], image[8:10, 10:14] = 250, 100
    found = compute_heatmaps(str(models / f"{name}.keras"), backend, False, np.stack([image, image]), np.array([1, 0]))
    assert (found.layer, found.parameters, found.heat.shape) == ("features", 22, (2, 12, 16))
    # The brightness is the one feature that counts, and it speaks for label 1 everywhere and for label 0 nowhere.
    np.testing.assert_allclose(found.heat[0], image / 250, atol=1e-5)
    assert not found.heat[1].any()


def test_a_model_that_does_not_load_is_said_in_a_line(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"no model")
    assert "model.keras" in compute_heatmaps(
        str(tmp_path / "model.keras"), "torch", False, np.zeros((1, 4, 4), np.uint8), np.array([0])
    )
