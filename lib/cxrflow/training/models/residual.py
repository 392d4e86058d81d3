"""A compact residual network, 1.2 million parameters, made for CPUs: the first layers, which cost most at full size, are few,
and reduce an image fourfold. .docs/scaling.md has how fast it trains."""

from __future__ import annotations

from keras import layers

from cxrflow.training.models.blocks import block, stem

WIDTH = 32


def body(x):
    x = stem(x, WIDTH)
    for channels in (2 * WIDTH, 4 * WIDTH, 8 * WIDTH):
        x = block(x, channels, stride=2)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)
