"""Initial weights from a file: Keras' .weights.h5 or .keras, or its older .h5. Imports Keras.

Only arrays are read, not the configuration in a .keras file, so nothing in a file can run code.
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
    """Set the weights of ``model`` to those in a file.

    A file names its arrays by their position in a network. We try the model and each nested model that has most of its
    weights, and look for it in the file's model and in each model nested there. So weights of a network of
    keras.applications fit, with or without its top, and so does the model.keras of another run. All arrays but the
    head's must be there, with their shapes.

    Args:
        model: A built Keras model of Keras' own layer classes.
        url: Path or URL of the file.

    Raises:
        UserError: If an array is missing or has another shape, or if Keras did not write the file. The model is then
            unchanged.
    """
    with tempfile.TemporaryDirectory() as folder, _open(url, os.path.join(folder, "file.h5")) as file:
        load = _load_legacy if "layer_names" in file.attrs or "model_weights" in file else _load
        try:
            count = load(_candidates(model), file, folder)
        except ValueError as error:
            raise UserError(
                f"--init-weights: expected a file that fits {model.name}, but in {url!r} {error}; use weights of "
                "the same --model"
            ) from error
    refresh_derived_state(model)
    log.info("initial weights: loaded %d of the network's %d arrays from %s", count, len(model.weights), url)


def _candidates(model) -> list:
    return [part for part in walk_models(model) if 2 * part.count_params() >= model.count_params()]


def _open(url: str, path: str) -> h5py.File:
    """Download the file to ``path`` and open it, or the weights inside a .keras file."""
    try:
        storage.download(url, path)
        if not zipfile.is_zipfile(path):
            return h5py.File(path, "r")
        with zipfile.ZipFile(path) as archive:
            return h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--init-weights: expected a Keras file (.weights.h5, .keras or .h5), got {url!r}, which cannot be "
            f"read as one ({error}); use a file that Keras saved"
        ) from error


def _load(candidates: list, file: h5py.File, folder: str) -> int:
    """Load the best match and return the number of arrays. Raises ValueError if no candidate fits."""
    own = os.path.join(folder, "own.weights.h5")
    found = [_match(part, own, group) for part in candidates for group in _stored_models(file)]
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
    """A model or nested model of the network, compared with a model in the file."""

    part: keras.Model
    stored: dict[str, h5py.Dataset]
    fits: list[str]
    misses: list[str]
    """One sentence each."""


def _match(part, own: str, group: h5py.Group) -> _Match:
    """Compare names and shapes. ``own``: where to save the part's weights, to see how Keras names them."""
    part.save_weights(own, overwrite=True)
    stored, fits, misses = _arrays(group), [], []
    with h5py.File(own, "r") as mine:
        for name, array in _arrays(mine).items():
            shape = stored[name].shape if name in stored else "nothing"
            if shape == array.shape:
                fits.append(name)
            elif (layer := array.parent.attrs.get("name")) != HEAD:  # another table has other labels
                misses.append(f"expected {array.shape} for {layer} at {name}, got {shape}")
    return _Match(part, stored, fits, misses)


def _stored_models(file: h5py.File) -> list[h5py.Group]:
    """The model in the file and those nested in it, outermost first: groups that hold layers."""
    found = [file] if "layers" in file else []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Group) and "layers" in item else None)
    return sorted(found, key=lambda group: group.name.count("/"))


def _arrays(model: h5py.Group) -> dict[str, h5py.Dataset]:
    """The arrays of the model's layers by path, without random states.

    HDF5 links and arrays that are stored in other files are left out: they could read any file of the machine.
    """
    found: dict[str, h5py.Dataset] = {}
    model["layers"].visititems(lambda name, item: found.update({f"layers/{name}": item}) if _is_array(item) else None)
    return found


def _is_array(item) -> bool:
    return (
        isinstance(item, h5py.Dataset)
        and not item.external
        and not item.is_virtual
        and not item.parent.parent.name.endswith("seed_generator")
    )


def _load_legacy(candidates: list, file: h5py.File, folder: str) -> int:
    """Load a file of the older format, which orders arrays instead of naming them; otherwise like ``_load``."""
    reasons = []
    for part in candidates:
        try:
            part.load_weights(file.filename)
            return len(part.weights)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"{'; '.join(reasons)} (of a network of keras.applications, take the file without its top)")
