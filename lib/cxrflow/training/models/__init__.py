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


def check_model(name: str) -> None:
    """Raise UserError for an unknown name."""
    if name not in MODELS:
        raise UserError(f"--model: expected one of {', '.join(MODELS)}; got {name!r}")


def build_model(name: str, labels: int, table_size: tuple[int, int], size: tuple[int, int], activation: str = "softmax"):
    """A Keras model from stored pixels to label scores.

    Input: uint8 or float (B, H, W, 1) of the table's height and width, 0 to 255, 0 is black. Output: float32
    (B, ``labels``), a softmax. Scaling and resizing to ``size`` are part of the model, so whoever has the file
    needs no other preparation. Both, and the output, are float32 whatever Keras' dtype policy: 16 bits would lose shades
    of gray, and scores near 0 and 1.
    """
    import keras

    check_model(name)
    inputs = keras.Input((*table_size, 1), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32")(inputs)
    if size != table_size:
        x = keras.layers.Resizing(*size, interpolation="bilinear", antialias=True, dtype="float32")(x)
    x = importlib.import_module(MODELS[name]).body(x)
    scores = keras.layers.Dense(labels, activation="softmax", name="scores", dtype="float32")(x)
    return keras.Model(inputs, scores, name=name)
