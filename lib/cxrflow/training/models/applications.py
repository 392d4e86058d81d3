"""The networks of ``keras.applications``, with random weights; ``--init-weights`` loads others.

The gray image is repeated to three channels and preprocessed like the network's own ``preprocess_input``. The network
is nested in the model. It is the one that ``keras.applications.NAME(include_top=False, weights=None)`` builds, so its
weight files fit. Nothing is downloaded.

EfficientNetB0 to B7 are an exception in Keras: they scale their input by another 1/sqrt(sd), but only if Keras
downloads ImageNet's weights itself. EfficientNetV2 does not.
"""

from __future__ import annotations

import importlib

import keras
import numpy as np
from keras import layers


def body(x, name: str):
    """Return features (B, F) of pixels (B, H, W, 1), 0 to 255.

    Raises ValueError if H or W is too small for the network.
    """
    make = getattr(keras.applications, name)
    scale, offset = preprocessing(make)
    network = make(include_top=False, weights=None, input_shape=(*x.shape[1:3], 3))
    x = layers.Concatenate()([x, x, x])
    x = layers.Rescaling(scale, offset=offset)(x)
    return layers.GlobalAveragePooling2D()(network(x))


def preprocessing(make) -> tuple[list[float], list[float]]:
    """Return scale and offset of each of three channels, which do the same as the network's ``preprocess_input``.

    That function is linear in all networks, so its values for black and white determine it. A Rescaling layer is part
    of the model's file, which a function is not.
    """
    preprocess = importlib.import_module(make.__module__).preprocess_input
    black, white = (preprocess(np.full((1, 1, 1, 3), value, np.float32)).ravel() for value in (0, 255))
    return ((white - black) / 255).tolist(), black.tolist()
