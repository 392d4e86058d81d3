"""Build the network: once as it is trained, and once as it is saved. Imports Keras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from cxrflow.base.config import TrainConfig
from cxrflow.base.manifest import Manifest
from cxrflow.distributed.worker import Worker
from cxrflow.training.batch_norm import synchronise
from cxrflow.training.initial_weights import drawn_by_numpy
from cxrflow.training.keras_patches import refresh_derived_state, with_torch_layers
from cxrflow.training.models import build_model
from cxrflow.training.pretrained import load_pretrained


def saved_network(config: TrainConfig, manifest: Manifest) -> keras.Model:
    """Build the network that is saved: stored pixels (B, H, W, 1) to logits float32 (B, K).

    It computes in float32, which every backend and machine supports, regardless of the precision in training.
    """
    return build_model(config.model, len(manifest.labels), (manifest.height, manifest.width))


def trained_network(config: TrainConfig, manifest: Manifest, worker: Worker) -> keras.Model:
    """Build the network that is trained.

    It has the same weights, in float32 too, but its layers compute in ``config.precision``.
    """
    synchronised = config.batch_norm == "global" and worker.size > 1
    with _dtype_policy(config.precision), drawn_by_numpy(config.seed):
        model = with_torch_layers(saved_network(config, manifest), replace_batch_norm=not synchronised)
    if synchronised:
        synchronise(model, worker)
    return model


def load_initial_weights(model: keras.Model, config: TrainConfig, manifest: Manifest) -> None:
    """Load the weights in ``config.init_weights`` into the network that is trained.

    Files name arrays by Keras' own layer classes, so they are read into the network that is saved, then copied.
    Raises UserError as ``load_pretrained`` does.
    """
    if config.init_weights is None:
        return
    network = saved_network(config, manifest)
    network.set_weights(model.get_weights())  # keeps the head, which may be missing in the file
    load_pretrained(network, config.init_weights)
    model.set_weights(network.get_weights())
    refresh_derived_state(model)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
