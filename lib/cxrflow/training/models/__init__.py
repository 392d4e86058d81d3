"""Network architectures, one a file, chosen by name. Modules are loaded when chosen, so that the names can be
checked where Keras is not installed.

Each module has ``body(x)``: a Keras tensor (B, H, W, 1), float32 around 0, to features (B, F).
"""

from __future__ import annotations

import importlib

from cxrflow.errors import UserError

MODELS = {
    "residual": "cxrflow.training.models.residual",
    "plain": "cxrflow.training.models.plain",
}


HEAD = "logits"
"""Name of the last layer, whose size is the number of labels."""


def check_model(name: str) -> None:
    """Raise UserError for an unknown name."""
    if name not in MODELS:
        raise UserError(f"--model: expected one of {', '.join(MODELS)}; got {name!r}")


def build_model(name: str, labels: int, table_size: tuple[int, int], size: tuple[int, int]):
    """A Keras model, named "network", from stored pixels to logits, one a label.

    Input: uint8 or float (B, H, W, 1) of the table's height and width, 0 to 255, 0 is black. Output: float32
    (B, ``labels``). Resizing to ``size`` and standardising each image, (x - mean) / sqrt(variance + 25), are part of the model.
    Both, and the output, are float32 whatever Keras' dtype policy: 16 bits would lose shades of gray, and small differences.
    """
    import keras

    check_model(name)
    x = inputs = keras.Input((*table_size, 1), name="pixels")
    if size != table_size:
        x = keras.layers.Resizing(*size, interpolation="bilinear", antialias=True, dtype="float32")(x)
    # Its brightness and contrast say more of an image's detector than of its patient.
    x = keras.layers.LayerNormalization((1, 2, 3), epsilon=25.0, center=False, scale=False, dtype="float32", name="standardise")(x)
    x = importlib.import_module(MODELS[name]).body(x)
    return keras.Model(inputs, keras.layers.Dense(labels, name=HEAD, dtype="float32")(x), name="network")
