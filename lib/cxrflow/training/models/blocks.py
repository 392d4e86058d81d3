"""Blocks of the residual networks (He et al. 2016), with the shortcuts of ResNet-D (He et al. 2019, Bag of tricks)."""

from __future__ import annotations

from keras import layers


def stem(x, channels: int):
    """Divide height and width by 4.

    It starts with a 3x3 convolution: TensorFlow 2.16 to 2.18 crash in the gradient of a 1x1 convolution with stride 2
    on one channel.
    """
    return layers.MaxPooling2D(3, strides=2, padding="same")(_convolve(x, channels, stride=2))


def block(x, channels: int, stride: int):
    """Add two 3x3 convolutions to a shortcut. Divides height and width by ``stride``, 1 or 2."""
    shortcut = x
    if stride == 2:  # average first: a 1x1 convolution with stride 2 would skip three of four pixels
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
