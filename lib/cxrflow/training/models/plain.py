"""Convolutions and pooling without shortcuts, as in a first tutorial: a baseline to compare with."""

from __future__ import annotations

from keras import layers


def body(x):
    for channels in (16, 32, 64, 64):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(64, activation="relu")(x)
