"""Network architectures, one file each, chosen by name.

A module is imported only when it is chosen, so names can be checked where Keras is not installed. Each module has a
function ``body(x)``: a Keras tensor (B, H, W, 1), float32 around 0, to features (B, F).

Your own network is such a function, named ``module:function``. Every worker must be able to import it. It may use only
Keras' own layers and no Lambda, so that model.keras loads wherever Keras is installed, without the function::

    # mine.py, for --model mine:body
    def body(x):
        x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(x)
        return keras.layers.GlobalMaxPooling2D()(x)

``applications/NAME`` is a network of ``keras.applications``; see the module ``applications``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
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
"""The module of each name."""
_PREFIX = "applications/"

HEAD = "logits"
"""Name of the last layer, whose size is the number of labels."""


def check_model(name: str) -> None:
    """Raise UserError for an unknown name.

    A user's module is found but not run: it may import Keras, which takes seconds and may fail on a driver without the
    backend.
    """
    if name.startswith(_PREFIX):
        if name.removeprefix(_PREFIX) not in APPLICATIONS:
            raise UserError(f"--model: expected {_PREFIX} and one of {', '.join(APPLICATIONS)}; got {name!r}")
    elif ":" in name:
        _check_own(*name.split(":", 1))
    elif name not in MODELS:
        raise UserError(
            f"--model: expected one of {', '.join(MODELS)}, {_PREFIX}NAME of keras.applications, or "
            f"module:function of your own; got {name!r}"
        )


def _check_own(module: str, function: str) -> None:
    try:
        names = dir(sys.modules[module]) if module in sys.modules else _names_in(module)
    except (ImportError, ValueError, SyntaxError) as error:
        raise UserError(
            f"--model: expected a module that can be imported, got {module}:{function} ({error}); put the module on "
            "PYTHONPATH of the driver and the workers"
        ) from error
    if function not in names:
        raise UserError(
            f"--model: expected the module {module} to have a function {function!r}, found none; check the name"
        )


def _names_in(module: str) -> tuple[str, ...]:
    """Return all names in the code of a module, which include those that it defines, without running it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no module {module!r} on the path")
    code = spec.loader.get_code(module) if isinstance(spec.loader, importlib.abc.InspectLoader) else None
    return code.co_names if code else ()


def build_model(name: str, labels: int, size: tuple[int, int]):
    """Build a Keras model named "network" from stored pixels to logits.

    Input: uint8 or float (B, H, W, 1), 0 to 255, 0 is black. Output: float32 (B, ``labels``). The model standardises
    each image itself: (x - mean) / sqrt(variance + 25). Input, standardisation and output are float32 whatever Keras'
    dtype policy: 16 bits would lose shades of gray and small differences of logits.

    Args:
        name: A key of ``MODELS``, ``applications/NAME`` or ``module:function``.
        labels: Number of labels, K.
        size: Height and width, H and W.

    Raises:
        UserError: If the network cannot be built for this size, or its file would not load without the user's code.
    """
    import keras

    body, raw = find_body(name)
    x = inputs = keras.Input((*size, 1), name="pixels")
    if not raw:  # brightness and contrast depend more on the detector than on the patient
        x = keras.layers.LayerNormalization(
            (1, 2, 3), epsilon=25.0, center=False, scale=False, dtype="float32", name="standardise"
        )(x)
    logits = keras.layers.Dense(labels, name=HEAD, dtype="float32")(_features(name, body, x))
    model = keras.Model(inputs, logits, name="network")
    if ":" in name:
        _require_portable(name, model)
    return model


def find_body(name: str) -> tuple[Callable, bool]:
    """Return the network's body, and whether it takes raw pixels, 0 to 255, and prepares them itself. Imports Keras."""
    check_model(name)
    if name.startswith(_PREFIX):
        applications = importlib.import_module("cxrflow.training.models.applications")
        return functools.partial(applications.body, name=name.removeprefix(_PREFIX)), True
    if name in MODELS:
        return importlib.import_module(MODELS[name]).body, False
    module, function = name.split(":", 1)
    try:
        return getattr(importlib.import_module(module), function), False
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"--model: expected a function that can be imported, got {name!r} ({error}); check the name, and "
            "PYTHONPATH of the workers"
        ) from error


def _features(name: str, body: Callable, x):
    try:
        made = body(x)
    except ValueError as error:  # Keras raises it if the images are too small for the network
        raise UserError(
            f"--model {name}: expected images that are large enough, got {x.shape[1]}x{x.shape[2]}, for which it "
            f"cannot be built ({error}); ingest with a larger --height and --width, or use another --model"
        ) from error
    shape: tuple[int | None, ...] = getattr(made, "shape", ())
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
                f"your code; got {type(layer).__name__} ({layer.name}); build it from layers in keras.layers"
            )
