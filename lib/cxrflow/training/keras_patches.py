"""All patches to Keras. Imports Keras.

Each section names the change, its reason, the Keras version that needs it and the issue, if there is one.
tests/test_keras_patches.py has a test for each change that fails as soon as Keras no longer needs it. The versions that
were measured are Keras 3.15.1 and torch 2.13.0; docs/benchmarks has the gains in speed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers

from cxrflow.training.layer_walk import walk_layers

# 1. Layers that call torch's kernels directly (torch backend, Keras <= 3.15).
#
# Keras' images are (B, H, W, C), torch's are (B, C, H, W). torch can store the latter in the memory order of the former
# (torch.channels_last), so a view converts between the two. Keras copies instead:
# - a convolution copies its input twice, and its gradient again: https://github.com/keras-team/keras/issues/23279,
#   fixed after 3.15 by https://github.com/keras-team/keras/pull/23199;
# - a pooling layer copies its input once: https://github.com/keras-team/keras/issues/23649;
# - batch normalisation in training is ten operations over all values instead of torch's one kernel;
# - each call of a layer costs about 0.2 ms of Python: https://github.com/keras-team/keras/issues/22561.
# On one CPU core this is a third to a half of a training step. The layers below compute the same numbers up to
# rounding.


def with_torch_layers(model, replace_batch_norm: bool = True):
    """Return a copy of ``model`` for training whose layers call torch's kernels directly.

    The copy has the same weights in the same order and shapes. A saved file of it would need this package to load, so
    training saves the original network instead. On backends other than torch this returns ``model`` itself.

    Args:
        model: A functional Keras model, which may contain other models.
        replace_batch_norm: Whether to replace batch normalisation too.
    """
    if keras.backend.backend() != "torch":
        return model
    copy = keras.models.clone_model(
        model, clone_function=functools.partial(_replace, replace_batch_norm=replace_batch_norm), recursive=True
    )
    copy.set_weights(model.get_weights())
    refresh_derived_state(copy)
    return copy


def _replace(layer, replace_batch_norm: bool):
    kind = type(layer)
    if kind in TORCH_LAYERS and _is_supported(layer) and (replace_batch_norm or kind is not layers.BatchNormalization):
        kind = TORCH_LAYERS[kind]
    return kind.from_config(layer.get_config())


def _is_supported(layer) -> bool:
    """Whether the replacement has all options that the layer uses."""
    if isinstance(layer, layers.BatchNormalization) and (
        layer.renorm or layer.synchronized or layer.axis not in (-1, 3)
    ):
        return False
    return getattr(layer, "data_format", "channels_last") == "channels_last" and layer.activity_regularizer is None


class _DirectCall:
    """Skips Keras' ``Layer.__call__`` once the layer is built. Inputs must be images without masks."""

    passes_training = False
    """Whether ``call`` takes the argument ``training``."""

    compute_dtype: str
    call: Callable

    def __call__(self, inputs, **options):
        several = isinstance(inputs, list)
        first = inputs[0] if several else inputs
        if keras.utils.is_keras_tensor(first) or first.is_meta:  # Keras builds the network
            # Pass only the options given: Keras is 70 times as fast with one argument as with an extra None.
            return super().__call__(inputs, **options)  # type: ignore[misc]
        x = (
            [keras.ops.cast(one, self.compute_dtype) for one in inputs]
            if several
            else keras.ops.cast(inputs, self.compute_dtype)
        )
        return self.call(x, training=options.get("training")) if self.passes_training else self.call(x)


class _Conv2D(_DirectCall, layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        import torch

        x, padding = _pad(inputs.movedim(3, 1), self, self.dilation_rate, "constant")
        # Keras' (height, width, in, out) to torch's (out, in, height, width), in the memory order of the images.
        kernel = (
            keras.ops.cast(kernel, self.compute_dtype).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        )
        y = torch.nn.functional.conv2d(x, kernel, None, self.strides, padding, self.dilation_rate, self.groups)
        return y.movedim(1, 3)


class _MaxPooling2D(_DirectCall, layers.MaxPooling2D):
    def call(self, inputs):
        import torch

        x, padding = _pad(inputs.movedim(3, 1), self, (1, 1), "replicate")
        return torch.nn.functional.max_pool2d(x, self.pool_size, self.strides, padding).movedim(1, 3)


class _AveragePooling2D(_DirectCall, layers.AveragePooling2D):
    def call(self, inputs):
        import torch

        x, padding = _pad(inputs.movedim(3, 1), self, (1, 1), "replicate")
        y = torch.nn.functional.avg_pool2d(x, self.pool_size, self.strides, padding, count_include_pad=False)
        return y.movedim(1, 3)


class _BatchNormalization(_DirectCall, layers.BatchNormalization):
    passes_training = True

    def call(self, inputs, training=None, mask=None):
        import torch

        x = inputs.movedim(-1, 1)
        gamma, beta, moving_mean, moving_variance = (
            None if variable is None else keras.ops.convert_to_tensor(variable)
            for variable in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        if not (training and self.trainable):
            y = torch.nn.functional.batch_norm(x, moving_mean, moving_variance, gamma, beta, eps=self.epsilon)
            return y.movedim(1, -1)
        # With momentum 1 torch writes the batch's own statistics. Its variance divides by n - 1, Keras' by n.
        mean, variance = torch.zeros_like(moving_mean), torch.zeros_like(moving_variance)
        y = torch.nn.functional.batch_norm(
            x, mean, variance, gamma, beta, training=True, momentum=1.0, eps=self.epsilon
        )
        n = x.numel() / x.shape[1]
        self.moving_mean.assign(torch.lerp(moving_mean, mean, 1 - self.momentum))
        self.moving_variance.assign(torch.lerp(moving_variance, variance * ((n - 1) / n), 1 - self.momentum))
        return y.movedim(1, -1)


class _ReLU(_DirectCall, layers.ReLU):
    pass


class _Add(_DirectCall, layers.Add):
    pass


TORCH_LAYERS: dict[type, Any] = {
    layers.Conv2D: _Conv2D,
    layers.MaxPooling2D: _MaxPooling2D,
    layers.AveragePooling2D: _AveragePooling2D,
    layers.BatchNormalization: _BatchNormalization,
    layers.ReLU: _ReLU,
    layers.Add: _Add,
}
"""The replacement of each Keras layer class. Other layers stay as they are."""


def _pad(x, layer, dilation: tuple[int, int], mode: str):
    """Pad images (B, C, H, W) where torch cannot; returns them and the padding that torch adds itself.

    torch pads both ends alike. Keras' "same" puts the odd row or column at the end.
    """
    import torch

    if layer.padding == "valid":
        return x, 0
    window = layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size
    missing = [
        max(0, (-(-size // stride) - 1) * stride + (length - 1) * step + 1 - size)
        for size, stride, length, step in zip(x.shape[2:], layer.strides, window, dilation, strict=True)
    ]
    if not any(pixels % 2 for pixels in missing):
        return x, [pixels // 2 for pixels in missing]
    height, width = ((pixels // 2, pixels - pixels // 2) for pixels in missing)
    return torch.nn.functional.pad(x, [*width, *height], mode), 0


# 2. A process that computes with torch loads no TensorFlow (torch backend, Keras <= 3.15).


def hide_tensorflow() -> None:
    """Make Keras treat TensorFlow as not installed if its backend is torch.

    Otherwise Keras imports an installed TensorFlow only to test whether an object is one of TensorFlow's. This takes
    two seconds and some hundred megabytes. https://github.com/keras-team/keras/issues/18455 (closed, still so in 3.15).
    Call it only in a process that does nothing else.
    """
    if keras.backend.backend() == "torch":
        from keras.src.utils import module_utils

        module_utils.tensorflow._available = False


# 3. An optimizer that averages gradients over the workers (all Keras 3 versions, Horovod 0.28.1).


def adamw_class() -> type[keras.optimizers.Optimizer]:
    """Return the class of AdamW that Keras really creates.

    On torch, ``keras.optimizers.AdamW()`` returns an instance of another class, which updates all variables in one
    call. A subclass of ``keras.optimizers.AdamW`` misses it and updates them one by one, a tenth of a step slower.
    There is no issue; see ``TorchOptimizer.__new__`` in Keras <= 3.15.
    """
    return type(keras.optimizers.AdamW())


def averaging_optimizer(
    kind: type[keras.optimizers.Optimizer], all_reduce_mean: Callable[[list], list]
) -> type[keras.optimizers.Optimizer]:
    """Return a subclass of an optimizer class that averages gradients over the workers before it applies them.

    Horovod's own DistributedOptimizer supports Keras 2 only. In Keras 3, every way of training ends in ``apply``.

    Args:
        kind: The optimizer class.
        all_reduce_mean: Takes and returns a list of gradients; see ``Worker.all_reduce_mean_gradients``.
    """

    class Averaging(kind):
        def apply(self, grads, trainable_variables=None):
            return super().apply(all_reduce_mean(list(grads)), trainable_variables)

    return Averaging


# 4. Initial weights from another source than the backend's random generator (all Keras 3 versions).


@contextmanager
def replaced_initializers(replace: Callable[[Callable], Callable]) -> Iterator[None]:
    """Within the block, have every layer initialise its weights with ``replace(initializer)``.

    Keras' initializers draw other numbers on each backend from the same seed, so runs on two backends would start
    differently. A weight does not record its initializer, so the only place to intervene is ``Layer.add_weight``.
    """
    add_weight = keras.layers.Layer.add_weight

    def add_replaced(layer, shape=None, initializer=None, dtype=None, **options):
        if initializer is None:  # the same default as Keras'
            initializer = "glorot_uniform" if "float" in (dtype or layer.variable_dtype) else "zeros"
        initializer = replace(keras.initializers.get(initializer))
        return add_weight(layer, shape=shape, initializer=initializer, dtype=dtype, **options)

    keras.layers.Layer.add_weight = add_replaced
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight


# 5. Batch normalisation over the global batch (all Keras 3 versions).


def set_batch_moments(layer: keras.layers.BatchNormalization, moments: Callable) -> None:
    """Have a layer normalise with the mean and variance that ``moments(inputs)`` returns, each float32 (C,).

    Keras' own option ``synchronized`` works with TensorFlow's distribution strategies only, and the layer has no other
    hook: https://github.com/keras-team/keras/issues/18667. ``inputs`` are float32 (B, H, W, C). The layer raises
    NotImplementedError for inputs with a mask.
    """

    def unmasked(inputs, mask):
        if mask is not None:
            raise NotImplementedError("batch normalisation: expected inputs without a mask, got one")
        return moments(inputs)

    layer._moments = unmasked


# 6. Layers that compute with copies of their weights (all Keras 3 versions).


def refresh_derived_state(model) -> None:
    """Update the copies of weights that some layers compute with. Call it after ``set_weights``.

    ``Normalization`` computes with a mean and a deviation that it derives from its weights. Keras refreshes them when
    it loads a file, but not in ``set_weights``: https://github.com/keras-team/keras/issues/20147.
    """
    for layer in walk_layers(model):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
