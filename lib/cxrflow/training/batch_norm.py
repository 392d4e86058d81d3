"""Batch normalisation on several workers. Imports Keras.

With ``--batch-norm local`` each worker normalises with the statistics of its own images during training, which is the
default of data-parallel training elsewhere too. It needs no communication, and a worker's batch is large enough to
estimate a mean. The moving statistics, which inference uses, are then combined over all workers.

With ``--batch-norm global`` all workers normalise with the statistics of the global batch. This costs one small
all-reduce per layer in the forward pass and one in the backward pass. It may pay off with many workers that have few
images each.
"""

from __future__ import annotations

import keras
import numpy as np

from cxrflow.distributed.worker import Worker
from cxrflow.training.keras_patches import set_batch_moments
from cxrflow.training.layer_walk import walk_layers

Statistics = list[tuple[np.ndarray, np.ndarray]]
"""The moving mean and variance, float32 (C,) each, of every batch normalisation layer."""


def combine_statistics(model, worker: Worker) -> Statistics:
    """Set the moving statistics to those of all workers' images; returns what this worker had before. Collective.

    The images of all workers are a mixture of those of each. Their mean is the mean of the workers' means. Their
    variance is, by the law of total variance, the mean of the workers' variances plus the variance of their means.
    """
    own = [(_array(layer.moving_mean), _array(layer.moving_variance)) for layer in _batch_norm_layers(model)]
    means = worker.all_reduce_mean([mean for mean, _ in own])
    variances = worker.all_reduce_mean(
        [variance + (mean - common) ** 2 for (mean, variance), common in zip(own, means, strict=True)]
    )
    set_statistics(model, list(zip(means, variances, strict=True)))
    return own


def set_statistics(model, statistics: Statistics) -> None:
    """Set the moving mean and variance of each batch normalisation layer."""
    for layer, (mean, variance) in zip(_batch_norm_layers(model), statistics, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


def synchronise(model, worker: Worker) -> None:
    """Make the model normalise with the mean and variance of the global batch."""

    def moments(inputs):
        """Mean and variance, float32 (C,), of all workers' inputs, float32 (B, H, W, C)."""
        axes = list(range(len(inputs.shape) - 1))
        local = keras.ops.stack([keras.ops.mean(inputs, axes), keras.ops.mean(keras.ops.square(inputs), axes)])
        mean, square = keras.ops.unstack(worker.all_reduce_mean_tensor(local), 2)
        return mean, keras.ops.maximum(square - keras.ops.square(mean), 0.0)

    for layer in _batch_norm_layers(model):
        set_batch_moments(layer, moments)


def _batch_norm_layers(model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in walk_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def _array(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)
