"""An average of the weights over the last steps, which is what is validated and kept. Imports Keras."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np


class WeightAverage:
    """Exponential moving average of all of a model's weights, the moving statistics of batch normalisation included
    (Tarvainen and Valpola 2017; the decay rises from 0.1 with the steps, as in Szegedy et al. 2016, so that the first
    weights are forgotten soon).

    It takes the swings of the single steps out of the validation curve, whatever the learning rate. All workers have the
    same weights, so each averages for itself; statistics are each worker's own until they are combined.
    """

    def __init__(self, model, epochs: float, steps_per_epoch: int):
        """``epochs``: after how many a step's weight has fallen to 1/e; counted in epochs, so that it means the same for
        any number of workers. 0: no average, ``applied`` shows the model as it is."""
        self._decay = math.exp(-1 / (epochs * steps_per_epoch)) if epochs else 0.0
        self._steps = 0
        # What layers count in whole numbers is no weight to average.
        self._weights = [weight for weight in model.weights if epochs and keras.backend.is_float_dtype(weight.dtype)]
        self.variables = [
            keras.Variable(keras.ops.copy(weight), trainable=False, name=f"average_{number}", dtype=weight.dtype)
            for number, weight in enumerate(self._weights)
        ]
        """What a checkpoint keeps, beside ``steps``."""
        self._blend = self._find_blend()

    def begin(self, steps: int) -> None:
        """Start from the model's weights as they are now, or, after ``steps`` others, from what a checkpoint has brought to
        ``variables``."""
        self._steps = steps
        if not steps:
            for average, weight in zip(self.variables, self._weights, strict=True):
                average.assign(weight)

    def update(self) -> None:
        """After a step."""
        self._steps += 1
        self._blend(1 - min(self._decay, (1 + self._steps / 10) / (10 + self._steps / 10)))

    def _find_blend(self) -> Callable[[float], None]:
        """All variables at once: one operation after the other from Python takes several times as long, a twentieth of a
        step."""
        return {"tensorflow": self._blend_by_tensorflow, "torch": self._blend_by_torch}[keras.backend.backend()]()

    def _blend_by_tensorflow(self) -> Callable[[float], None]:
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)], jit_compile=False)
        def blend(share):
            for average, weight in zip(self.variables, self._weights, strict=True):
                average.assign_add(share * (weight - average))

        return lambda share: blend(tf.constant(share, tf.float32))

    def _blend_by_torch(self) -> Callable[[float], None]:
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
        """The model has the averages for the length of a block; what the block changes of them stays changed."""
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
