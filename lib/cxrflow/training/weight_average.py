"""An exponential moving average (EMA) of the weights, which is validated and saved. Imports Keras."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np


class WeightAverage:
    """EMA of all weights of a model, including the moving statistics of batch normalisation.

    After Tarvainen and Valpola 2017. The decay rises from 0.1 with the number of steps, as in Szegedy et al. 2016, so
    that the initial weights are forgotten soon. The average removes the fluctuations of single steps from the
    validation curve, at any learning rate.

    All workers have the same weights, so each averages for itself. The statistics of batch normalisation are each
    worker's own until ``batch_norm.combine_statistics`` combines them.
    """

    def __init__(self, model, epochs: float, steps_per_epoch: int):
        """Make the variables of the average.

        Args:
            model: A built Keras model.
            epochs: Time constant: after so many epochs the weight of a step has fallen to 1/e. Epochs mean the same for
                any number of workers. With 0 there is no average, and ``applied`` does nothing.
            steps_per_epoch: Steps of an epoch.
        """
        self._decay = math.exp(-1 / (epochs * steps_per_epoch)) if epochs else 0.0
        self._steps = 0
        # Some layers count in integer weights, which have no average.
        self._weights = [weight for weight in model.weights if epochs and keras.backend.is_float_dtype(weight.dtype)]
        self.variables = [
            keras.Variable(keras.ops.copy(weight), trainable=False, name=f"average_{index}", dtype=weight.dtype)
            for index, weight in enumerate(self._weights)
        ]
        """The averages, which a checkpoint holds together with the number of steps."""
        self._blend = self._find_blend()

    def begin(self, steps: int) -> None:
        """Start from the current weights, or, after ``steps`` > 0, from what a checkpoint restored to ``variables``."""
        self._steps = steps
        if not steps:
            for average, weight in zip(self.variables, self._weights, strict=True):
                average.assign(weight)

    def update(self) -> None:
        """Add the weights after a step."""
        self._steps += 1
        self._blend(1 - min(self._decay, (1 + self._steps / 10) / (10 + self._steps / 10)))

    def _find_blend(self) -> Callable[[float], None]:
        """Return a function that moves all averages towards the weights by a share from 0 to 1.

        It updates all variables in one call. One operation per variable from Python takes several times as long, a
        twentieth of a step.
        """
        return {"tensorflow": self._tensorflow_blend, "torch": self._torch_blend}[keras.backend.backend()]()

    def _tensorflow_blend(self) -> Callable[[float], None]:
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)], jit_compile=False)
        def blend(share):
            for average, weight in zip(self.variables, self._weights, strict=True):
                average.assign_add(share * (weight - average))

        return lambda share: blend(tf.constant(share, tf.float32))

    def _torch_blend(self) -> Callable[[float], None]:
        import torch

        @torch.no_grad()
        def blend(share):
            if self.variables:
                torch._foreach_lerp_(
                    [average.value for average in self.variables], [weight.value for weight in self._weights], share
                )

        return blend

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages into the model for the length of a block. Changes to them in the block stay."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for average, weight in zip(self.variables, self._weights, strict=True):
            value = np.copy(keras.ops.convert_to_numpy(weight))
            weight.assign(average)
            average.assign(value)
