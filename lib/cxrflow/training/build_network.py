"""The network of a training: as it is trained, and as it is saved. Imports Keras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from cxrflow.base.config import TrainConfig
from cxrflow.base.manifest import Manifest
from cxrflow.distributed.worker import Worker
from cxrflow.training.batch_norm import synchronise
from cxrflow.training.initial_weights import drawn_by_numpy
from cxrflow.training.models import build_model
from cxrflow.training.pretrained import load_initial, refresh_derived_state
from cxrflow.training.torch_layers import native


def saved_network(config: TrainConfig, manifest: Manifest) -> keras.Model:
    """The network that computes in float32, whatever it was trained in: every backend and machine can. From stored pixels to
    logits (B, K)."""
    return build_model(config.model, len(manifest.labels), (manifest.height, manifest.width))


def trained_network(config: TrainConfig, manifest: Manifest, worker: Worker) -> keras.Model:
    """The same network with the same weights, which are float32 too; its layers compute in ``config.precision``."""
    together = config.batch_norm == "global" and worker.size > 1
    with _policy(config.precision), drawn_by_numpy(config.seed):
        model = native(saved_network(config, manifest), normalisation=not together)
    if together:
        synchronise(model, worker)
    return model


def begin_with_file(model: keras.Model, config: TrainConfig, manifest: Manifest) -> None:
    """Give the network that is trained the weights in ``config.init_weights``. Files name arrays by Keras' own layers, so they
    are read into the network that is saved. Raises UserError as ``load_initial`` does."""
    network = saved_network(config, manifest)
    network.set_weights(model.get_weights())  # of the head, which may not be in the file
    load_initial(network, config.init_weights)
    model.set_weights(network.get_weights())
    refresh_derived_state(model)


@contextmanager
def _policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
