"""Grad-CAM heat maps (Selvaraju et al. 2017) of the run's model: which parts of an image raise the score of a label.

This is the only part of the report that loads Keras. It runs in a separate process with one thread and the backend of
the training: ``python -m cxrflow.report.gradcam MODEL INPUT OUTPUT``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.executor_process import python_path
from cxrflow.base.framework_process import framework_environment
from cxrflow.base.freed_memory import keep_freed_memory
from cxrflow.base.keras_import import import_keras
from cxrflow.base.keras_settings import installed_backend, set_own_settings

NETWORK, LOGITS = "network", "calibration"


@dataclass(frozen=True)
class Heatmaps:
    """Heat maps of images, and what the page states about the model."""

    heat: np.ndarray
    """float32 (m, h, w), 0 to 1, of the size of the feature map. 1 is the strongest evidence for the label; a map
    without any evidence is 0 everywhere."""
    layer: str
    """Name of the layer whose output is the feature map."""
    parameters: int
    """Number of the model's parameters."""


def compute_heatmaps(
    model: str, backend: str, multi: bool, pixels: np.ndarray, label_indices: np.ndarray
) -> Heatmaps | str:
    """Compute the heat map of each image for one label.

    ``model``: URL of the file; ``pixels``: uint8 (m, H, W); ``label_indices``: int (m,). Returns the reason as text if
    the framework or a feature map is missing.
    """
    try:
        backend = installed_backend(backend)
    except UserError as error:
        return str(error)
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        file, given, answer = (Path(folder) / name for name in ("model.keras", "in.npz", "out.npz"))
        file.write_bytes(storage.read_bytes(model))
        np.savez(given, pixels=pixels, label_indices=label_indices, multi=multi)
        # The process imports cxrflow from where this one did, which may be an archive from Spark.
        environment = {
            **os.environ,
            **framework_environment(backend, threads=1),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": python_path(),
        }
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(file), str(given), str(answer)],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        with np.load(answer) as found:
            return Heatmaps(found["heat"], str(found["layer"]), int(found["parameters"]))


def _main(model_path: str, input_path: str, output_path: str) -> None:
    import_keras()
    import keras

    keep_freed_memory()
    set_own_settings()
    model = keras.saving.load_model(model_path, compile=False, safe_mode=True)
    layer = _feature_layer(model)
    outputs = _record_outputs(layer)
    with np.load(input_path) as given:
        logits = _logits_of(model, bool(given["multi"]))
        heat = [
            _heat(logits, outputs, image, int(label), bool(given["multi"]))
            for image, label in zip(given["pixels"], given["label_indices"], strict=True)
        ]
    np.savez(output_path, heat=np.stack(heat).astype(np.float32), layer=layer.name, parameters=model.count_params())


def _logits_of(model, multi: bool) -> Callable:
    """A function from images to logits (1, K).

    Our own models have a layer of logits. We use it because a score of exactly 0 or 1 has no gradient. For other models
    the logits are the logarithms of the scores, or of their odds for multi-label models.
    """
    import keras
    from keras import ops

    if any(layer.name == LOGITS for layer in model.layers):
        return keras.Model(model.inputs, model.get_layer(LOGITS).output)

    def logits(images, training):
        scores = model(images, training=training)
        present = ops.log(ops.maximum(scores, 1e-30))
        return present - ops.log(ops.maximum(1 - scores, 1e-30)) if multi else present

    return logits


def _feature_layer(model):
    """The last layer of the network whose output is a feature map and that does not pool."""
    import keras

    network = next((layer for layer in model.layers if layer.name == NETWORK), model)
    maps = [
        layer
        for layer in _flat(network)
        if len(layer.output.shape) == 4
        and min(layer.output.shape[1:3]) > 1
        and "Pooling" not in type(layer).__name__
        and not isinstance(layer, keras.layers.InputLayer)
    ]
    if not maps:
        raise ValueError("expected a layer whose output is a feature map, found none in the model")
    return maps[-1]


def _flat(network) -> list:
    return [inner for layer in network.layers for inner in (_flat(layer) if hasattr(layer, "layers") else [layer])]


def _record_outputs(layer) -> list:
    """A list to which the layer adds its output at every call. Keras cannot return the output of a nested network's
    layer."""
    outputs, call = [], layer.call

    def recording(*arguments, **options):
        outputs.append(call(*arguments, **options))
        return outputs[-1]

    layer.call = recording
    return outputs


def _heat(logits: Callable, outputs: list, image: np.ndarray, label: int, multi: bool) -> np.ndarray:
    """float (h, w), 0 to 1: the sum of the channels, each weighted by its mean gradient; negative sums become 0.

    With test-time augmentation the first copy counts, which is the unchanged image.
    """
    from keras import ops

    features, gradients = _gradients(logits, outputs, image.astype(np.float32)[None, ..., None], label, multi)
    features, gradients = (ops.convert_to_numpy(ops.cast(values, "float32"))[0] for values in (features, gradients))
    heat = np.maximum((features * gradients.mean(axis=(0, 1))).sum(axis=-1), 0)
    return heat / heat.max() if heat.max() > 0 else heat


def _log_odds(logits, label: int, multi: bool):
    """The logarithm of the odds of a label, from logits (1, K)."""
    from keras import ops

    own = logits[0, label]
    return own if multi else own - ops.logsumexp(ops.concatenate([logits[0, :label], logits[0, label + 1 :]]))


def _gradients(logits: Callable, outputs: list, images: np.ndarray, label: int, multi: bool) -> tuple:
    """(features, gradients of the label's log odds by them) of the layer's first call, tensors (copies, h, w, C)."""
    import keras

    outputs.clear()
    if keras.backend.backend() == "torch":
        import torch

        inputs = keras.ops.convert_to_tensor(images).requires_grad_()
        with torch.enable_grad():
            log_odds = _log_odds(logits(inputs, training=False), label, multi)
        return outputs[0].detach(), torch.autograd.grad(log_odds, outputs[0])[0]
    import tensorflow as tf

    inputs = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        log_odds = _log_odds(logits(inputs, training=False), label, multi)
    return outputs[0], tape.gradient(log_odds, outputs[0])


if __name__ == "__main__":
    _main(*sys.argv[1:])
