"""A compact residual network (He et al. 2016), 1.2 million parameters, made for CPUs: the first layers, which cost most at full
size, are few, and reduce an image fourfold. At 224 x 224, in bfloat16 on a core that has it, it trains on 150 images a second."""

from __future__ import annotations

from keras import layers

WIDTH = 32


def body(x):
    # TensorFlow 2.16 to 2.18 crash on the gradient of a 1x1 convolution with stride 2 on one channel, so the first
    # layer is a 3x3 convolution.
    x = _convolve(x, WIDTH, stride=2)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for channels in (2 * WIDTH, 4 * WIDTH, 8 * WIDTH):
        x = _block(x, channels)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(0.2)(x)


def _block(x, channels: int):
    # A mean before the 1x1 convolution, which with a stride would look at a quarter of the values (He et al. 2019).
    shortcut = layers.AveragePooling2D(2, padding="same")(x)
    shortcut = _normalise(layers.Conv2D(channels, 1, use_bias=False)(shortcut))
    x = _convolve(x, channels, stride=2)
    x = _normalise(layers.Conv2D(channels, 3, padding="same", use_bias=False)(x))
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _convolve(x, channels: int, stride: int):
    return layers.ReLU()(_normalise(layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)))


def _normalise(x):
    return layers.BatchNormalization(momentum=0.9)(x)
