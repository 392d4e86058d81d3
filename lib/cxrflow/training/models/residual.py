"""A compact residual network with 1.2 million parameters for CPUs.

The first layers cost most, because they work at full size. Here they are few and divide height and width by 4.
docs/benchmarks has its speed.
"""

from __future__ import annotations

from keras import layers

from cxrflow.training.models.blocks import block, stem

WIDTH = 32
"""Channels of the stem."""


def body(x):
    """Return features (B, 256) of images (B, H, W, 1)."""
    x = stem(x, WIDTH)
    for channels in (2 * WIDTH, 4 * WIDTH, 8 * WIDTH):
        x = block(x, channels, stride=2)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)
