"""ResNet-D (He et al. 2019, Bag of tricks) with two plain 3x3 convolutions per block and 2.8 million parameters.

It is meant for images of about 224x224 and an hour on a few CPU cores. Training speed at 224x224 in images per second
(TensorFlow 2.18, one thread, float32, batches of 32), with the alternatives that were tried:

- this network: 65
- bottleneck blocks, 2.8 million parameters: 44
- ConvNeXt, 4.2 million parameters (7x7 depthwise convolutions, LayerNorm, GELU): 23
- the same with 3x3 depthwise convolutions and ReLU: 39, and with 1.2 million parameters: 62
"""

from __future__ import annotations

from keras import layers

from cxrflow.training.models.blocks import block, stem

BLOCKS = {32: 1, 64: 2, 128: 2, 256: 2}
"""Channels and number of blocks of each stage. The stem divides height and width by 4, every stage but the first by
2."""


def body(x):
    """Return features (B, 256) of images (B, H, W, 1)."""
    x = stem(x, 32)
    for stage, (channels, blocks) in enumerate(BLOCKS.items()):
        for index in range(blocks):
            x = block(x, channels, stride=2 if stage and not index else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)
