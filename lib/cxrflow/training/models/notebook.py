"""A network of the kind that the notebook of 2018 trained, for comparison.

It has three convolutions, as in a first Keras tutorial. Nearly all weights (0.77 of 0.80 million for 150x106 pixels)
lie between the flattened image and the first dense layer, so their number grows with the image size. The notebook
itself is lost: its exact layers are not known.
"""

from __future__ import annotations

from keras import layers


def body(x):
    """Return features (B, 64) of images (B, H, W, 1)."""
    for channels in (32, 32, 64):
        x = layers.Conv2D(channels, 3, activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    return layers.Dropout(0.5)(x)
