"""Any network of ``keras.applications``, from random weights; ``--init-weights`` for others.

The gray image is repeated to three channels and prepared as that network's own ``preprocess_input`` does. The network is a
model within the model, the same that ``keras.applications.NAME(include_top=False, weights=None)`` makes, so its files of
weights fit. Nothing is downloaded. One wrinkle of Keras: EfficientNetB0 to B7 scale their input by another 1/sqrt(sd) only
where Keras fetches ImageNet's weights itself; EfficientNetV2 has no such thing.
"""

from __future__ import annotations

import importlib

import keras
import numpy as np
from keras import layers


def body(x, name: str):
    """``x``: pixels (B, H, W, 1), 0 to 255. Raises ValueError where they are too small for the network."""
    make = getattr(keras.applications, name)
    scale, offset = preparation(make)
    network = make(include_top=False, weights=None, input_shape=(*x.shape[1:3], 3))
    x = layers.Concatenate()([x, x, x])
    x = layers.Rescaling(scale, offset=offset)(x)
    return layers.GlobalAveragePooling2D()(network(x))


def preparation(make) -> tuple[list[float], list[float]]:
    """(scale, offset) of each channel: what the network's ``preprocess_input`` makes of a gray image. It is linear in all
    networks, so black and white tell it, and a Rescaling layer, unlike the function, is part of the model's file."""
    prepare = importlib.import_module(make.__module__).preprocess_input
    black, white = (prepare(np.full((1, 1, 1, 3), value, np.float32)).ravel() for value in (0, 255))
    return ((white - black) / 255).tolist(), black.tolist()
