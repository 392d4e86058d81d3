"""Network architectures, one a file, chosen by name. Modules are loaded when chosen, so that the names can be
checked where Keras is not installed.

Each module has ``body(x)``: a Keras tensor (B, H, W, 1), float32 around 0, to features (B, F). A user's own is such a
function, named as ``module:function``; every worker must be able to import it. It may use Keras' own layers only, and
no Lambda: model.keras loads wherever Keras is, without the function::

    # mine.py, for --model mine:body
    def body(x):
        x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(x)
        return keras.layers.GlobalMaxPooling2D()(x)

``applications/NAME`` is a network of ``keras.applications``, see ``applications``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable

from cxrflow.base.errors import UserError
from cxrflow.training.models.names import APPLICATIONS

MODELS = {
    "residual": "cxrflow.training.models.residual",
    "resnetd": "cxrflow.training.models.resnetd",
    "plain": "cxrflow.training.models.plain",
    "notebook": "cxrflow.training.models.notebook",
}
_FOLDER = "applications/"


HEAD = "logits"
"""Name of the last layer, whose size is the number of labels."""


def check_model(name: str) -> None:
    """Raise UserError for an unknown name. Nothing is run for it: a user's module may load Keras, which takes seconds,
    and on the driver perhaps with a backend that is not there."""
    if name.startswith(_FOLDER):
        if name.removeprefix(_FOLDER) not in APPLICATIONS:
            raise UserError(f"--model: expected {_FOLDER} and one of {', '.join(APPLICATIONS)}; got {name!r}")
    elif ":" in name:
        _check_own(*name.split(":", 1))
    elif name not in MODELS:
        raise UserError(
            f"--model: expected one of {', '.join(MODELS)}, {_FOLDER}NAME of keras.applications, or "
            f"module:function of your own; got {name!r}"
        )


def _check_own(module: str, function: str) -> None:
    try:
        names = dir(sys.modules[module]) if module in sys.modules else _names_in(module)
    except (ImportError, ValueError, SyntaxError) as error:
        raise UserError(f"--model: {module}:{function} cannot be imported: {error}") from error
    if function not in names:
        raise UserError(f"--model: expected the module {module} to have a function {function!r}, found none")


def _names_in(module: str) -> tuple[str, ...]:
    """All names that the code of a module uses, among them those that it defines."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ImportError(f"there is no module {module!r} on the path")
    return spec.loader.get_code(module).co_names


def build_model(name: str, labels: int, size: tuple[int, int]):
    """A Keras model, named "network", from stored pixels to logits, one a label.

    Input: uint8 or float (B, H, W, 1), H and W being ``size``, 0 to 255, 0 is black. Output: float32
    (B, ``labels``). Standardising each image, (x - mean) / sqrt(variance + 25), is part of the model.
    That, and the output, are float32 whatever Keras' dtype policy: 16 bits would lose shades of gray, and small differences.

    Raises UserError where the network cannot be built for this size, or would not load without cxrflow.
    """
    import keras

    body, raw = find_body(name)
    x = inputs = keras.Input((*size, 1), name="pixels")
    if not raw:  # its brightness and contrast say more of an image's detector than of its patient
        x = keras.layers.LayerNormalization(
            (1, 2, 3), epsilon=25.0, center=False, scale=False, dtype="float32", name="standardise"
        )(x)
    logits = keras.layers.Dense(labels, name=HEAD, dtype="float32")(_features(name, body, x))
    model = keras.Model(inputs, logits, name="network")
    if ":" in name:
        _require_portable(name, model)
    return model


def find_body(name: str) -> tuple[Callable, bool]:
    """The network's body, and whether it wants raw pixels, 0 to 255, since it prepares them itself. Imports Keras."""
    check_model(name)
    if name.startswith(_FOLDER):
        applications = importlib.import_module("cxrflow.training.models.applications")
        return functools.partial(applications.body, name=name.removeprefix(_FOLDER)), True
    if name in MODELS:
        return importlib.import_module(MODELS[name]).body, False
    module, function = name.split(":", 1)
    try:
        return getattr(importlib.import_module(module), function), False
    except (ImportError, AttributeError) as error:
        raise UserError(f"--model: {name!r} cannot be imported as module:function: {error}") from error


def _features(name: str, body: Callable, x):
    try:
        made = body(x)
    except ValueError as error:  # Keras', of a size that is too small for the network
        raise UserError(f"--model {name}: cannot be built for images of {x.shape[1]}x{x.shape[2]}: {error}") from error
    shape = getattr(made, "shape", ())
    if len(shape) != 2 or shape[1] is None:
        raise UserError(
            f"--model {name}: expected features (B, F), got {tuple(shape) or type(made).__name__}; end with a "
            "pooling layer such as GlobalAveragePooling2D"
        )
    return made


def _require_portable(name: str, model) -> None:
    import keras

    from cxrflow.training.layer_walk import walk_layers, walk_models

    for layer in (*walk_models(model), *walk_layers(model)):
        if not type(layer).__module__.startswith("keras.") or isinstance(layer, keras.layers.Lambda):
            raise UserError(
                f"--model {name}: expected Keras' own layers, but no Lambda, so that model.keras loads without "
                f"your code; got {type(layer).__name__} ({layer.name})"
            )
