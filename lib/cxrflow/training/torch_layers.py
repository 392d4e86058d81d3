"""The training network on torch's own kernels, where Keras' way to them takes longer than they do. Imports Keras.

Keras' images are (B, H, W, C); torch's operations take (B, C, H, W), which may lie in memory as Keras' do
(``torch.channels_last``), so that a view leads from one to the other. Keras 3.15 copies instead: each input of a pool
once and of a convolution twice, and the same again on the way back. It normalises a batch by ten operations over all
values, for which torch has a kernel, and spends 0.2 ms in Python on each call of a layer. On one core of a CPU all that
was a third to a half of a step; see .docs/scaling.md. The layers here give the same numbers up to rounding. They can go
once tests/benchmarks/scaling.py reaches its goal of torch to TensorFlow without them.
"""

from __future__ import annotations

import ctypes
import functools

import keras
from keras import layers

from cxrflow.training.pretrained import refresh_derived_state

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
LARGEST_INT = 2**31 - 1


def native(model, normalisation: bool = True):
    """A network to train in the model's place; on other backends than torch the model itself. Without ``normalisation``, that
    of batches stays Keras'.

    Its weights start as the model's and have the same order and shapes. A file of it would need this package to load, so
    it is the model that is saved.
    """
    if keras.backend.backend() != "torch":
        return model
    twin = keras.models.clone_model(
        model, clone_function=functools.partial(_native, normalisation=normalisation), recursive=True
    )
    twin.set_weights(model.get_weights())
    refresh_derived_state(twin)
    return twin


def own_process() -> None:
    """Suit this process to training with torch, where it is there for nothing else; does nothing with other backends."""
    if keras.backend.backend() == "torch":
        _keep_memory()
        _leave_tensorflow_out()


def _leave_tensorflow_out() -> None:
    """Have Keras take TensorFlow for not installed: it would load it, where it is, only to ask whether an object is one of
    its; two seconds and some hundred megabytes."""
    from keras.src.utils import module_utils

    module_utils.tensorflow._available = False


def _keep_memory() -> None:
    """Have the C library keep what this process frees, for good: torch asks for the buffers of every step anew, and to get
    the large ones from the system took a twentieth of a step. TensorFlow keeps its own."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


def _native(layer, normalisation: bool):
    kept = isinstance(layer, layers.BatchNormalization) and not normalisation
    kind = NATIVE[type(layer)] if type(layer) in NATIVE and _is_usual(layer) and not kept else type(layer)
    return kind.from_config(layer.get_config())


def _is_usual(layer) -> bool:
    """Whether the layer asks for nothing that the class which stands for its own leaves out."""
    if isinstance(layer, layers.BatchNormalization) and (
        layer.renorm or layer.synchronized or layer.axis not in (-1, 3)
    ):
        return False
    return getattr(layer, "data_format", "channels_last") == "channels_last" and layer.activity_regularizer is None


class _Direct:
    """A layer that is called as it is, once it is built: its inputs are images without masks."""

    trains_otherwise = False
    """Whether ``call`` wants to know if it is training."""

    def __call__(self, inputs, **options):
        several = isinstance(inputs, list)
        first = inputs[0] if several else inputs
        if keras.utils.is_keras_tensor(first) or first.is_meta:  # while the network is built
            # Without an option that was not given, since Keras passes on a layer's only argument seventy times as fast.
            return super().__call__(inputs, **options)
        x = (
            [keras.ops.cast(one, self.compute_dtype) for one in inputs]
            if several
            else keras.ops.cast(inputs, self.compute_dtype)
        )
        return self.call(x, training=options.get("training")) if self.trains_otherwise else self.call(x)


class _Conv2D(_Direct, layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        import torch

        x, padding = _padded(inputs.movedim(3, 1), self, self.dilation_rate, "constant")
        # (h, w, in, out) to torch's (out, in, h, w), laid out like the images.
        kernel = (
            keras.ops.cast(kernel, self.compute_dtype).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        )
        y = torch.nn.functional.conv2d(x, kernel, None, self.strides, padding, self.dilation_rate, self.groups)
        return y.movedim(1, 3)


class _MaxPooling2D(_Direct, layers.MaxPooling2D):
    def call(self, inputs):
        import torch

        x, padding = _padded(inputs.movedim(3, 1), self, (1, 1), "replicate")
        return torch.nn.functional.max_pool2d(x, self.pool_size, self.strides, padding).movedim(1, 3)


class _AveragePooling2D(_Direct, layers.AveragePooling2D):
    def call(self, inputs):
        import torch

        x, padding = _padded(inputs.movedim(3, 1), self, (1, 1), "replicate")
        y = torch.nn.functional.avg_pool2d(x, self.pool_size, self.strides, padding, count_include_pad=False)
        return y.movedim(1, 3)


class _BatchNormalization(_Direct, layers.BatchNormalization):
    trains_otherwise = True

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
        # With a momentum of 1 they become the batch's own. torch divides by n - 1 where Keras divides by n.
        mean, variance = torch.zeros_like(moving_mean), torch.zeros_like(moving_variance)
        y = torch.nn.functional.batch_norm(
            x, mean, variance, gamma, beta, training=True, momentum=1.0, eps=self.epsilon
        )
        n = x.numel() / x.shape[1]
        self.moving_mean.assign(torch.lerp(moving_mean, mean, 1 - self.momentum))
        self.moving_variance.assign(torch.lerp(moving_variance, variance * ((n - 1) / n), 1 - self.momentum))
        return y.movedim(1, -1)


class _ReLU(_Direct, layers.ReLU):
    pass


class _Add(_Direct, layers.Add):
    pass


NATIVE = {
    layers.Conv2D: _Conv2D,
    layers.MaxPooling2D: _MaxPooling2D,
    layers.AveragePooling2D: _AveragePooling2D,
    layers.BatchNormalization: _BatchNormalization,
    layers.ReLU: _ReLU,
    layers.Add: _Add,
}
"""The class that stands for each of Keras'; other layers stay what they are."""


def _padded(x, layer, dilation: tuple[int, int], mode: str):
    """The images (B, C, H, W) and the padding that is left to torch, which knows only the same on both ends. That of "same" has
    the odd row or column at the end."""
    import torch

    if layer.padding == "valid":
        return x, 0
    window = layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size
    missing = [
        max(0, (-(-size // stride) - 1) * stride + (length - 1) * apart + 1 - size)
        for size, stride, length, apart in zip(x.shape[2:], layer.strides, window, dilation, strict=True)
    ]
    if not any(pixels % 2 for pixels in missing):
        return x, [pixels // 2 for pixels in missing]
    height, width = ((pixels // 2, pixels - pixels // 2) for pixels in missing)
    return torch.nn.functional.pad(x, [*width, *height], mode), 0
