"""A network's layers, also where it has other models among its layers. Imports Keras."""

from __future__ import annotations

from collections.abc import Iterator

import keras


def parts(model) -> Iterator:
    """The model and every model within it, outermost first."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from parts(layer)


def layers_of(model) -> Iterator:
    """All layers, but for the models among them: of those, their layers."""
    return (layer for part in parts(model) for layer in part.layers if not isinstance(layer, keras.Model))
