"""The model as it is saved: the network, test-time augmentation (TTA) and calibration. Imports Keras.

It consists of Keras' own layers only. Whoever has the file needs neither this package nor any preprocessing: stored
pixels go in, calibrated scores come out.
"""

from __future__ import annotations

import keras
from keras import layers

TTA_SCALES = {
    1: [(1.0, 1.0)],
    5: [(1.0, 1.0), (0.87, 1.03), (1.03, 0.88), (0.99, 1.17), (1.17, 1.0)],
}
"""The TTA copies of an image by their number: factors for its height and width. They are slightly smaller and larger,
and have other aspect ratios, as film shape and collimation differ between hospitals. Chosen by trials, see
docs/benchmarks."""


def average_tta_copies(network, copies: int):
    """Build a Keras model from stored pixels to the mean logits, float32 (B, K), of several copies of an image.

    Args:
        network: uint8 or float (B, H, W, 1), 0 to 255, to logits (B, K). It becomes a layer of the model.
        copies: A key of ``TTA_SCALES``.
    """
    inputs = keras.Input(network.input_shape[1:], name="pixels")
    logits = [network(_rescale(inputs, *factors)) for factors in TTA_SCALES[copies]]
    return keras.Model(inputs, layers.Average(name="tta")(logits) if copies > 1 else logits[0])


def build_predictor(network, temperature: float, activation: str):
    """Build a Keras model from stored pixels to calibrated scores, float32 (B, K).

    Args:
        network: What ``average_tta_copies`` built.
        temperature: Divides the logits (Guo et al. 2017).
        activation: ``softmax`` or ``sigmoid``, from logits to scores.
    """
    x = layers.Rescaling(1 / temperature, name="calibration", dtype="float32")(network.output)
    return keras.Model(
        network.input, layers.Activation(activation, name="scores", dtype="float32")(x), name="predictor"
    )


def _rescale(x, height_factor: float, width_factor: float):
    """Scale an image about its centre and keep its size: crop it, or add black margins."""
    if (height_factor, width_factor) == (1.0, 1.0):
        return x
    height, width = x.shape[1:3]
    rows, columns = max(1, round(height * height_factor)), max(1, round(width * width_factor))
    x = layers.Resizing(rows, columns, interpolation="bilinear", dtype="float32")(x)
    missing = [(short // 2, short - short // 2) for short in (height - rows, width - columns)]  # negative: too large
    x = layers.Cropping2D([tuple(max(0, -side) for side in sides) for sides in missing], dtype="float32")(x)
    return layers.ZeroPadding2D([tuple(max(0, side) for side in sides) for sides in missing], dtype="float32")(x)
