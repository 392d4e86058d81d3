"""Convolutions and pooling without shortcuts, as in a first tutorial. A baseline for comparison."""

from __future__ import annotations

from keras import layers


def body(x):
    """Return features (B, 64) of images (B, H, W, 1)."""
    for channels in (16, 32, 64, 64):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(64, activation="relu")(x)
