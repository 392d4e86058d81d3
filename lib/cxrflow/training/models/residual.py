"""A small residual network (He et al. 2016), about 300,000 parameters: fast on CPUs."""

from __future__ import annotations

from keras import layers


def body(x):
    # TensorFlow 2.16 to 2.18 crash on the gradient of a 1x1 convolution with stride 2 on one channel, so the first
    # layer is a 3x3 convolution and every shortcut starts from many channels.
    x = _convolve(x, 16, stride=2)
    for channels in (32, 64, 128):
        x = _block(x, channels)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)


def _block(x, channels: int):
    shortcut = layers.Conv2D(channels, 1, strides=2, use_bias=False)(x)
    shortcut = layers.BatchNormalization(momentum=0.9)(shortcut)
    x = _convolve(x, channels, stride=2)
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _convolve(x, channels: int, stride: int):
    x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x)
