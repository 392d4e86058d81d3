"""The kind of network that the notebook of 2018 trained, for comparison: three convolutions as in a first tutorial of
Keras, then nearly all of its weights (0.77 of 0.80 million, of 150x106 pixels) between the flattened image and one layer.

The notebook itself is lost: this stands for its kind, not for its very layers. Made for 150x106; grows with the input.
"""

from __future__ import annotations

from keras import layers


def body(x):
    for channels in (32, 32, 64):
        x = layers.Conv2D(channels, 3, activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    return layers.Dropout(0.5)(x)
