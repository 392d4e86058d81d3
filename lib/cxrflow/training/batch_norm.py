"""Batch normalisation on several workers. Imports Keras.

In training each worker normalises with the statistics of its own images (``--batch-norm local``), as all data-parallel
training does that does not say otherwise: it costs no exchange, and a worker's batch is large enough for a mean. What is
used later, the moving statistics, is that of all workers' images together. With ``global`` the workers normalise with
the statistics of the global batch, in one small exchange a layer on the way there and one on the way back, which many
workers with few images each may be worth.
"""

from __future__ import annotations

import keras
import numpy as np

from cxrflow.distributed.worker import Worker
from cxrflow.training.layer_walk import layers_of


def combine(model, worker: Worker) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give every worker the moving statistics of all workers' images, and return what this one had; collective.

    The images of all workers are a mixture of those of each. So the mean is the mean of the workers' means, and the
    variance, by the law of total variance, the mean of their variances plus the variance of their means.
    """
    own = [(_array(layer.moving_mean), _array(layer.moving_variance)) for layer in _layers(model)]
    means = worker.all_reduce_mean([mean for mean, _ in own])
    variances = worker.all_reduce_mean(
        [variance + (mean - common) ** 2 for (mean, variance), common in zip(own, means, strict=True)]
    )
    put(model, list(zip(means, variances, strict=True)))
    return own


def put(model, statistics: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Set the moving mean and variance of each layer of batch normalisation."""
    for layer, (mean, variance) in zip(_layers(model), statistics, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


def synchronise(model, worker: Worker) -> None:
    """Have the model normalise with the mean and the variance of the global batch from now on."""

    def moments(inputs, mask):
        """Mean and variance float32 (channels,) of inputs float32 (B, H, W, channels) of all workers."""
        if mask is not None:
            raise NotImplementedError("expected inputs of batch normalisation without a mask, got one")
        axes = list(range(len(inputs.shape) - 1))
        local = keras.ops.stack([keras.ops.mean(inputs, axes), keras.ops.mean(keras.ops.square(inputs), axes)])
        mean, square = keras.ops.unstack(worker.all_reduce_mean_tensor(local), 2)
        return mean, keras.ops.maximum(square - keras.ops.square(mean), 0.0)

    for layer in _layers(model):
        # Keras' own ``synchronized`` is for TensorFlow's strategies alone, and its layers have no other way in.
        layer._moments = moments


def _layers(model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in layers_of(model) if isinstance(layer, keras.layers.BatchNormalization)]


def _array(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)
