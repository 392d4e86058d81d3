"""Initial weights that are the same on every backend, because NumPy draws them. Imports Keras."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import keras
import numpy as np

from cxrflow.training.keras_patches import replaced_initializers

TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of a standard normal distribution that is truncated at -2 and 2."""


def drawn_by_numpy(seed: int) -> AbstractContextManager[None]:
    """Have all layers that are built in the block draw their random weights from a NumPy generator with ``seed``.

    The distributions are those of the layers' own initializers. Keras still makes weights that are not random (zeros,
    ones, constants, arrays) and those of initializers that DRAWS does not list, such as Orthogonal.
    """
    generator = np.random.default_rng(seed)
    return replaced_initializers(lambda initializer: _by_numpy(initializer, generator))


def _by_numpy(initializer: Callable, generator: np.random.Generator) -> Callable:
    draw = next((draw for kind, draw in DRAWS.items() if isinstance(initializer, kind)), None)
    if draw is None:
        return initializer
    return lambda shape, dtype=None: keras.ops.convert_to_tensor(draw(initializer, tuple(shape), generator), dtype)


def _draw_scaled(initializer, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Draw with variance ``scale / fan``.

    This is Glorot and Bengio 2010 with ``fan_avg`` and scale 1, and He et al. 2015 with ``fan_in`` and scale 2.
    """
    fan_in, fan_out = _fans(shape, initializer.input_axes, initializer.output_axes)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[initializer.mode]
    stddev = (initializer.scale / max(1, fan)) ** 0.5
    if initializer.distribution == "uniform":
        return generator.uniform(-stddev * 3**0.5, stddev * 3**0.5, shape)
    if initializer.distribution == "untruncated_normal":
        return generator.normal(0, stddev, shape)
    return _truncated_normal(shape, generator) * stddev / TRUNCATED_STDDEV


def _fans(shape: tuple[int, ...], input_axes: list[int] | None, output_axes: list[int] | None) -> tuple[int, int]:
    """Return the number of inputs and outputs of a unit, as Keras counts them.

    A kernel is (..., inputs, outputs); both counts are multiplied by the number of positions in the leading axes.
    """
    if input_axes is not None and output_axes is not None:
        return int(np.prod([shape[axis] for axis in input_axes])), int(np.prod([shape[axis] for axis in output_axes]))
    if len(shape) < 2:
        return int(np.prod(shape)), int(np.prod(shape))
    positions = int(np.prod(shape[:-2]))
    return positions * shape[-2], positions * shape[-1]


def _truncated_normal(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    values = generator.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return values


DRAWS: dict[type, Callable] = {
    keras.initializers.VarianceScaling: _draw_scaled,  # the base class of Glorot, He and LeCun
    keras.initializers.RandomUniform: lambda initializer, shape, generator: generator.uniform(
        initializer.minval, initializer.maxval, shape
    ),
    keras.initializers.RandomNormal: lambda initializer, shape, generator: generator.normal(
        initializer.mean, initializer.stddev, shape
    ),
    keras.initializers.TruncatedNormal: lambda initializer, shape, generator: (
        initializer.mean + initializer.stddev * _truncated_normal(shape, generator)
    ),
}
"""The NumPy equivalent of each kind of Keras initializer: (initializer, shape, generator) -> float64 array."""
