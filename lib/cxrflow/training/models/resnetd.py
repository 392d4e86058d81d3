"""A residual network of 2.8 million parameters for images of about 224x224, where an hour on a few cores is at hand:
ResNet-D (He et al. 2019, Bag of tricks) with two plain 3x3 convolutions a block.

Sized by what CPUs are fast at. Training at 224x224 (TensorFlow 2.18 on one thread, float32, batches of 32), images a second:
this one 65. In its place a ConvNeXt of 4.2 million parameters (7x7 depthwise convolutions, LayerNorm, GELU) trains 23, with
3x3 depthwise convolutions and ReLU 39, of 1.2 million parameters 62; bottleneck blocks of 2.8 million, 44.
"""

from __future__ import annotations

from keras import layers

from cxrflow.training.models.blocks import block, stem

BLOCKS = {32: 1, 64: 2, 128: 2, 256: 2}
"""Channels of each stage, and its blocks. Every stage but the first halves height and width, after a stem that quarters
them."""


def body(x):
    x = stem(x, 32)
    for stage, (channels, blocks) in enumerate(BLOCKS.items()):
        for number in range(blocks):
            x = block(x, channels, stride=2 if stage and not number else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)
