"""The model as it is saved: the network, the views of an image that it averages over, and calibration. Imports Keras.

All of it are Keras' own layers, so whoever has the file needs neither this package nor any preparation: stored pixels go
in, calibrated scores come out.
"""

from __future__ import annotations

import keras
from keras import layers

VIEWS = {
    1: [(1.0, 1.0)],
    5: [(1.0, 1.0), (0.87, 1.03), (1.03, 0.88), (0.99, 1.17), (1.17, 1.0)],
}
"""By their number: how many times as high and as wide an image is shown. A little smaller and larger, and of another shape:
what a film's shape and collimation change from hospital to hospital. Chosen in trials, see .docs/trials.md."""


def show_views(network, views: int):
    """A Keras model from stored pixels to the mean logits, float32 (B, K), of so many views of an image.

    ``network``: uint8 or float (B, H, W, 1), 0 to 255, to logits (B, K); it becomes a layer of the model.
    """
    inputs = keras.Input(network.input_shape[1:], name="pixels")
    logits = [network(_seen(inputs, *view)) for view in VIEWS[views]]
    return keras.Model(inputs, layers.Average(name="views")(logits) if views > 1 else logits[0])


def build_predictor(seen, temperature: float, activation: str):
    """A Keras model from stored pixels to scores, float32 (B, K): the ``activation`` (softmax or sigmoid) of the logits of
    ``seen``, which ``show_views`` made, divided by the ``temperature``."""
    x = layers.Rescaling(1 / temperature, name="calibration", dtype="float32")(seen.output)
    return keras.Model(seen.input, layers.Activation(activation, name="scores", dtype="float32")(x), name="predictor")


def _seen(x, high: float, wide: float):
    """The image enlarged about its centre, at its own size: cropped, or with black margins."""
    if (high, wide) == (1.0, 1.0):
        return x
    height, width = x.shape[1:3]
    rows, columns = max(1, round(height * high)), max(1, round(width * wide))
    x = layers.Resizing(rows, columns, interpolation="bilinear", dtype="float32")(x)
    missing = [(short // 2, short - short // 2) for short in (height - rows, width - columns)]  # below 0: too much
    x = layers.Cropping2D([tuple(max(0, -side) for side in sides) for sides in missing], dtype="float32")(x)
    return layers.ZeroPadding2D([tuple(max(0, side) for side in sides) for sides in missing], dtype="float32")(x)
