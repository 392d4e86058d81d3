"""Walk through a network's layers, including those of models nested in it. Imports Keras."""

from __future__ import annotations

from collections.abc import Iterator

import keras


def walk_models(model) -> Iterator:
    """Yield the model and every model nested in it, outermost first."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from walk_models(layer)


def walk_layers(model) -> Iterator:
    """Yield all layers, including those of nested models, but not the nested models themselves."""
    return (layer for part in walk_models(model) for layer in part.layers if not isinstance(layer, keras.Model))
