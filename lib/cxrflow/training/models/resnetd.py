"""A residual network of 2.8 million parameters for images of about 224x224, where an hour on a few cores is at hand:
ResNet-D (He et al. 2019, Bag of tricks) with two plain 3x3 convolutions a block.

Sized by what CPUs are fast at. Training at 224x224 (TensorFlow 2.18 on one thread, float32, batches of 32), images a second:
this one 65. In its place a ConvNeXt of 4.2 million parameters (7x7 depthwise convolutions, LayerNorm, GELU) trains 23, with
3x3 depthwise convolutions and ReLU 39, of 1.2 million parameters 62; bottleneck blocks of 2.8 million, 44.
"""

from __future__ import annotations

from keras import layers

BLOCKS = {32: 1, 64: 2, 128: 2, 256: 2}
"""Channels of each stage, and its blocks. Every stage but the first halves height and width, after a stem that quarters
them."""


def body(x):
    x = _convolve(x, 32, stride=2)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for stage, (channels, blocks) in enumerate(BLOCKS.items()):
        for block in range(blocks):
            x = _block(x, channels, stride=2 if stage and not block else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)


def _block(x, channels: int, stride: int):
    shortcut = x
    if stride == 2:  # before the 1x1 convolution, which would skip three pixels of four
        shortcut = layers.AveragePooling2D(2, padding="same")(shortcut)
    if x.shape[-1] != channels:
        shortcut = _normalise(layers.Conv2D(channels, 1, use_bias=False)(shortcut))
    x = _convolve(x, channels, stride)
    x = _normalise(layers.Conv2D(channels, 3, padding="same", use_bias=False)(x))
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _convolve(x, channels: int, stride: int):
    x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(_normalise(x))


def _normalise(x):
    return layers.BatchNormalization(momentum=0.9)(x)
