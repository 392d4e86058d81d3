"""Where in an image a model sees a label: Grad-CAM (Selvaraju et al. 2017), with the run's own model.

The one place of the report that loads Keras, and therefore a process of its own, on one thread, with the backend that the
run was trained with: ``python -m cxrflow.report.gradcam MODEL IN OUT``.
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

NETWORK, LOGITS = "network", "calibration"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


@dataclass(frozen=True)
class Heatmaps:
    """What the model says of itself and of images."""

    heat: np.ndarray
    """float32 (m, h, w), 0 to 1, of the size of the feature map: 1 is where the image speaks most for the label; 0 everywhere
    where nothing speaks for it."""
    layer: str
    """The feature map's layer."""
    parameters: int


def look(model: str, backend: str, multi: bool, pixels: np.ndarray, places: np.ndarray) -> Heatmaps | str:
    """``model``: place of the file; ``pixels``: uint8 (m, H, W); ``places``: int (m,), the label that is asked about. Why there is
    nothing to see, in words, where the framework or a feature map is missing."""
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        file, asked, answer = (Path(folder) / name for name in ("model.keras", "in.npz", "out.npz"))
        file.write_bytes(storage.read_bytes(model))
        np.savez(asked, pixels=pixels, places=places, multi=multi)
        # It finds cxrflow where this process did, which may be an archive that Spark brought.
        environment = {
            **os.environ,
            **_ONE_THREAD,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(file), str(asked), str(answer)],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        with np.load(answer) as found:
            return Heatmaps(found["heat"], str(found["layer"]), int(found["parameters"]))


def _main(model_path: str, asked: str, answer: str) -> None:
    import keras

    model = keras.saving.load_model(model_path, compile=False, safe_mode=True)
    layer = _feature_layer(model)
    kept = _keep_outputs(layer)
    with np.load(asked) as given:
        logits = _logits_of(model, bool(given["multi"]))
        heat = [
            _heat(logits, kept, image, int(place), bool(given["multi"]))
            for image, place in zip(given["pixels"], given["places"], strict=True)
        ]
    np.savez(answer, heat=np.stack(heat).astype(np.float32), layer=layer.name, parameters=model.count_params())


def _logits_of(model, multi: bool) -> Callable:
    """From images to logits (1, K). Of our own models they are what comes before the scores, which are 1 or 0, and without
    a gradient, where the model is sure; of others the logarithms of the scores, for multi of their odds."""
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
    """The last layer of the network proper whose output is still a map, and was not pooled."""
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
        raise ValueError("the model has no layer whose output is a map")
    return maps[-1]


def _flat(network) -> list:
    return [inner for layer in network.layers for inner in (_flat(layer) if hasattr(layer, "layers") else [layer])]


def _keep_outputs(layer) -> list:
    """A list that what the layer gives is added to, at every call: of a network inside a network it cannot be asked for by
    name."""
    kept, call = [], layer.call

    def keeping(*arguments, **options):
        kept.append(call(*arguments, **options))
        return kept[-1]

    layer.call = keeping
    return kept


def _heat(logits: Callable, kept: list, image: np.ndarray, place: int, multi: bool) -> np.ndarray:
    """float (h, w): the feature map's channels, each weighted by its mean gradient, where their sum is above 0; as a share of
    the highest. Of several views of an image the first counts, which is the image as it is."""
    from keras import ops

    features, gradients = _gradients(logits, kept, image.astype(np.float32)[None, ..., None], place, multi)
    features, gradients = (ops.convert_to_numpy(ops.cast(values, "float32"))[0] for values in (features, gradients))
    heat = np.maximum((features * gradients.mean(axis=(0, 1))).sum(axis=-1), 0)
    return heat / heat.max() if heat.max() > 0 else heat


def _odds(logits, place: int, multi: bool):
    """The logarithm of the odds of a label, from logits (1, K)."""
    from keras import ops

    mine = logits[0, place]
    return mine if multi else mine - ops.logsumexp(ops.concatenate([logits[0, :place], logits[0, place + 1 :]]))


def _gradients(logits: Callable, kept: list, images: np.ndarray, place: int, multi: bool) -> tuple:
    """(features, gradients of the label's log odds by them) of the first call of the layer, tensors (V, h, w, C)."""
    import keras

    kept.clear()
    if keras.backend.backend() == "torch":
        import torch

        inputs = keras.ops.convert_to_tensor(images).requires_grad_()
        with torch.enable_grad():
            odds = _odds(logits(inputs, training=False), place, multi)
        return kept[0].detach(), torch.autograd.grad(odds, kept[0])[0]
    import tensorflow as tf

    inputs = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        odds = _odds(logits(inputs, training=False), place, multi)
    return kept[0], tape.gradient(odds, kept[0])


if __name__ == "__main__":
    _main(*sys.argv[1:])
