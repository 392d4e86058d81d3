"""Initial weights that are the same on either backend: NumPy draws them, not the backend's own generator. Imports Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np

TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of a standard normal that is cut off at two of its own."""


@contextmanager
def drawn_by_numpy(seed: int) -> Iterator[None]:
    """Have all layers that are built in the block draw their random weights from ``seed``.

    The distributions are those of the layers' own initializers. What is not random (zeros, ones, constants, arrays), and
    initializers of other kinds than those of DRAWS, such as Orthogonal, are left to Keras.
    """
    generator = np.random.default_rng(seed)
    add_weight = keras.layers.Layer.add_weight

    def add_drawn(layer, shape=None, initializer=None, dtype=None, **options):
        if initializer is None:  # as Keras decides it
            initializer = "glorot_uniform" if "float" in (dtype or layer.variable_dtype) else "zeros"
        initializer = _by_numpy(keras.initializers.get(initializer), generator)
        return add_weight(layer, shape=shape, initializer=initializer, dtype=dtype, **options)

    # Every layer makes its weights by this method; an initializer cannot be told afterwards from the weight that it made.
    keras.layers.Layer.add_weight = add_drawn
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight


def _by_numpy(initializer: Callable, generator: np.random.Generator) -> Callable:
    draw = next((draw for kind, draw in DRAWS.items() if isinstance(initializer, kind)), None)
    if draw is None:
        return initializer
    return lambda shape, dtype=None: keras.ops.convert_to_tensor(draw(initializer, tuple(shape), generator), dtype)


def _scaled(initializer, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Variance ``scale`` / fan: Glorot and Bengio 2010 (``fan_avg``, 1), He et al. 2015 (``fan_in``, 2) and the like."""
    fan_in, fan_out = _fans(shape, initializer.input_axes, initializer.output_axes)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[initializer.mode]
    stddev = (initializer.scale / max(1, fan)) ** 0.5
    if initializer.distribution == "uniform":
        return generator.uniform(-stddev * 3**0.5, stddev * 3**0.5, shape)
    if initializer.distribution == "untruncated_normal":
        return generator.normal(0, stddev, shape)
    return _cut_normal(shape, generator) * stddev / TRUNCATED_STDDEV


def _fans(shape: tuple[int, ...], input_axes: list[int] | None, output_axes: list[int] | None) -> tuple[int, int]:
    """Inputs and outputs of a unit, as Keras counts them: of a kernel (..., inputs, outputs), times its positions."""
    if input_axes is not None and output_axes is not None:
        return int(np.prod([shape[axis] for axis in input_axes])), int(np.prod([shape[axis] for axis in output_axes]))
    if len(shape) < 2:
        return int(np.prod(shape)), int(np.prod(shape))
    positions = int(np.prod(shape[:-2]))
    return positions * shape[-2], positions * shape[-1]


def _cut_normal(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    values = generator.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return values


DRAWS: dict[type, Callable] = {
    keras.initializers.VarianceScaling: _scaled,  # Glorot, He and LeCun are kinds of it
    keras.initializers.RandomUniform: lambda initializer, shape, generator: generator.uniform(
        initializer.minval, initializer.maxval, shape
    ),
    keras.initializers.RandomNormal: lambda initializer, shape, generator: generator.normal(
        initializer.mean, initializer.stddev, shape
    ),
    keras.initializers.TruncatedNormal: lambda initializer, shape, generator: (
        initializer.mean + initializer.stddev * _cut_normal(shape, generator)
    ),
}
