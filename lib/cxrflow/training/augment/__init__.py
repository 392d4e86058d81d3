"""Augmentation: a policy that changes the images of a training batch, chosen by name. Validation is never augmented.

A policy is a function, or a ``Policy`` with parameters of your own::

    def policy(pixels: np.ndarray, sample_ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray: ...

``pixels`` are uint8 (B, H, W, 1), 0 is black, not to be written to; ``sample_ids`` are int64 (B,), the ``sample_id``
of each image in the table. It returns uint8 (B, H, W, 1), in the same order. An image must come out the same
whatever else is in its batch, or a run depends on the number of workers: take random numbers from
``uniforms(seed, epoch, sample_ids, count)`` and from nothing else. It runs in each worker, on one thread, between
reading a batch and training on it. A user's own is named as ``module:name``; every worker must be able to import it::

    # mine.py, for --augment mine:POLICY
    POLICY = dataclasses.replace(POLICIES["standard"], rotation=20, flip=0.5)
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import numpy as np

from cxrflow.base.errors import UserError
from cxrflow.training.augment.policy import POLICIES, Policy
from cxrflow.training.augment.uniforms import uniforms

__all__ = ["POLICIES", "Policy", "augment", "find_policy", "uniforms"]


def find_policy(name: str) -> Callable:
    """The policy of that name. Raises UserError, which lists the known names, for an unknown one."""
    policy = POLICIES[name] if name in POLICIES else _import(name)
    if isinstance(policy, Policy) and policy != Policy() and importlib.util.find_spec("cv2") is None:
        raise UserError(
            f"--augment {name}: the package opencv-python-headless is not installed; "
            "pip install cxrflow[train], or use --augment none"
        )
    return policy


def _import(name: str) -> Callable:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(
            f"--augment: expected one of {', '.join(POLICIES)}, or module:function of your own; got {name!r}"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--augment: {name!r} cannot be imported as module:function: {error}") from error
    if not callable(found):
        raise UserError(f"--augment: expected {name!r} to be a function or a Policy, got {type(found).__name__}")
    return found


def augment(policy: Callable, pixels: np.ndarray, sample_ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """A batch as the policy makes it: uint8 (B, H, W, 1), from the same.

    ``sample_ids`` int64 (b,), b <= B, belong to the first b rows; those after them only fill up and stay as they are.
    Raises UserError where a user's policy returns something else than it should.
    """
    true = len(sample_ids)
    if true == 0:
        return pixels
    seen = pixels if true == len(pixels) else pixels[:true]
    made = policy(seen, sample_ids, seed=seed, epoch=epoch)
    if getattr(made, "shape", None) != seen.shape or made.dtype != np.uint8:
        kind = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
        raise UserError(f"--augment: expected the policy to return uint8 {seen.shape}, got {kind}")
    return made if true == len(pixels) else np.concatenate([made, pixels[true:]])
