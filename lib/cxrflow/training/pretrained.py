"""Initial weights from a file: Keras' .weights.h5 or .keras, or its older .h5. Imports Keras.

Only arrays are read, not a .keras file's configuration, so nothing in a file can run.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import zipfile
from dataclasses import dataclass

import h5py
import keras

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.training.keras_patches import refresh_derived_state
from cxrflow.training.layer_walk import walk_models
from cxrflow.training.models import HEAD

log = logging.getLogger(__name__)


def load_pretrained(model, url: str) -> None:
    """Give ``model`` the weights of a file.

    A file names its arrays by their place in a network. The model, or a model within it that has most of its weights, is
    looked for in the file, or in a model within the file's: so weights of a network of keras.applications fit, with or
    without its top, and so does the model.keras of another run. All arrays but the head's must be there, with their shapes.

    Raises UserError where they are not, or the file is none of Keras'.
    """
    with tempfile.TemporaryDirectory() as folder:
        with _open(url, os.path.join(folder, "file.h5")) as file:
            load = _load_older if "layer_names" in file.attrs or "model_weights" in file else _load
            try:
                count = load(_candidates(model), file, folder)
            except ValueError as error:
                raise UserError(
                    f"--init-weights: expected a file that fits {model.name}, but in {url!r} {error}"
                ) from error
    refresh_derived_state(model)
    log.info("initial weights: %d of the network's %d arrays are those of %s", count, len(model.weights), url)


def _candidates(model) -> list:
    return [part for part in walk_models(model) if 2 * part.count_params() >= model.count_params()]


def _open(url: str, path: str) -> h5py.File:
    try:
        storage.download(url, path)
        if not zipfile.is_zipfile(path):
            return h5py.File(path, "r")
        with zipfile.ZipFile(path) as archive:
            return h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--init-weights: expected a file of Keras' (.weights.h5, .keras or .h5), but {url!r} cannot "
            f"be read as one: {error}"
        ) from error


def _load(candidates: list, file: h5py.File, folder: str) -> int:
    """The number of arrays that were loaded. Raises ValueError where none of the candidates fits."""
    own = os.path.join(folder, "own.weights.h5")
    found = [_match(part, own, group) for part in candidates for group in _models(file)]
    best = min(found, key=lambda match: len(match.misses), default=None)  # of equal ones the outermost
    if best is None:
        raise ValueError("there are no weights of layers")
    if best.misses:
        raise ValueError(
            f"{len(best.misses)} of {len(best.misses) + len(best.fits)} arrays are missing or have another "
            f"shape: {best.misses[0]}"
        )
    best.part.save_weights(own, overwrite=True)
    with h5py.File(own, "a") as mine:
        for name in best.fits:
            mine[name][...] = best.stored[name][()]
    best.part.load_weights(own)
    return len(best.fits)


@dataclass(frozen=True)
class _Match:
    """A part of the network beside a model in the file."""

    part: keras.Model
    stored: dict[str, h5py.Dataset]
    fits: list[str]
    misses: list[str]
    """A sentence each."""


def _match(part, own: str, group: h5py.Group) -> _Match:
    """``own``: where the part's weights are written meanwhile, to see how Keras names them."""
    part.save_weights(own, overwrite=True)
    stored, fits, misses = _arrays(group), [], []
    with h5py.File(own, "r") as mine:
        for name, array in _arrays(mine).items():
            shape = stored[name].shape if name in stored else "nothing"
            if shape == array.shape:
                fits.append(name)
            elif (layer := array.parent.attrs.get("name")) != HEAD:  # a file of another task has other labels
                misses.append(f"expected {array.shape} for {layer} at {name}, found {shape}")
    return _Match(part, stored, fits, misses)


def _models(file: h5py.File) -> list[h5py.Group]:
    """The model in the file and those within it, outermost first: groups that hold layers."""
    found = [file] if "layers" in file else []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Group) and "layers" in item else None)
    return sorted(found, key=lambda group: group.name.count("/"))


def _arrays(model: h5py.Group) -> dict[str, h5py.Dataset]:
    """The arrays of the model's layers by their path, but for random states. Links and arrays in other files, which HDF5
    knows too, are left out."""
    found = {}
    model["layers"].visititems(lambda name, item: found.update({f"layers/{name}": item}) if _is_array(item) else None)
    return found


def _is_array(item) -> bool:
    return (
        isinstance(item, h5py.Dataset)
        and not item.external
        and not item.is_virtual
        and not item.parent.parent.name.endswith("seed_generator")
    )


def _load_older(candidates: list, file: h5py.File, folder: str) -> int:
    """The same of the older format, which knows arrays by their order only."""
    reasons = []
    for part in candidates:
        try:
            part.load_weights(file.filename)
            return len(part.weights)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"{'; '.join(reasons)} (of a network of keras.applications, take the file without its top)")
