"""Keras' own settings, which do not depend on the user's keras.json. Imports Keras only where that says so.

Keras reads ``~/.keras/keras.json``, or that in KERAS_HOME, when it is imported. With ``channels_first`` there, layers
would take image rows for channels, and another float type would replace float32.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cxrflow.base.errors import UserError

OWN = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
"""What every process of this package computes with. The backend is set by KERAS_BACKEND before Keras is imported."""


BACKENDS = ("tensorflow", "torch")
"""Keras' backends that this package uses; each is the name of its module."""


def installed_backend(trained_with: str) -> str:
    """The backend to score with: that of the training, or the other one where it is not installed.

    A model file loads on either, and the scores differ by rounding only. Raises UserError if none is installed.
    """
    for backend in sorted(BACKENDS, key=lambda name: name != trained_with):
        if importlib.util.find_spec(backend) is not None:
            return backend
    raise UserError(
        f"--run: expected the package tensorflow-cpu or torch on this machine, found neither; pip install "
        f'"cxrflow[{trained_with}]", with which the run was trained'
    )


def local_backend() -> str:
    """The backend to train with in this process: KERAS_BACKEND, or else TensorFlow if it is installed, else torch.

    If neither is installed, it is TensorFlow, whose import then says so.
    """
    found = (name for name in BACKENDS if importlib.util.find_spec(name) is not None)
    return os.environ.get("KERAS_BACKEND") or next(found, BACKENDS[0])


def overridden_settings() -> dict[str, object]:
    """The settings of this machine's keras.json that we override, by name. Does not import Keras."""
    folder = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(folder, "keras.json")) as file:
            found = json.load(file)
        return {name: found[name] for name, own in OWN.items() if found.get(name, own) != own}
    except (OSError, ValueError, AttributeError):  # Keras ignores such a file as well
        return {}


def set_own_settings() -> None:
    """Make this process use OWN, whatever keras.json says. Imports Keras; call it before anything is built."""
    import keras

    _apply({**OWN, "dtype_policy": "float32"}, keras.config)


@contextmanager
def own_settings() -> Iterator[None]:
    """``set_own_settings`` for the length of a block: a notebook's process may use Keras for other things too."""
    import keras

    config = keras.config
    before = {name: getattr(config, name)() for name in (*OWN, "dtype_policy")}
    set_own_settings()
    try:
        yield
    finally:
        _apply(before, config)


def _apply(values: dict, config) -> None:
    for name, value in values.items():
        getattr(config, f"set_{name}")(value)
