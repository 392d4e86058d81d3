"""Augmentation: a policy that changes the images of a training batch, chosen by name. Validation is never augmented.

A policy is a function, or a ``Policy`` with your own parameters::

    def policy(pixels: np.ndarray, sample_ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray: ...

``pixels`` are uint8 (B, H, W, 1), 0 is black, and read-only. ``sample_ids`` are int64 (B,), the ``sample_id`` of each
image in the table. The policy returns uint8 (B, H, W, 1) in the same order. It runs in each worker, on one thread,
between reading a batch and training on it.

The result for an image must not depend on the other images in its batch, or a run would depend on the number of
workers. So take random numbers from ``uniforms(seed, epoch, sample_ids, count)`` only.

Your own policy is named ``module:name``. Every worker must be able to import it::

    # mine.py, for --augment mine:POLICY
    POLICY = dataclasses.replace(POLICIES["standard"], rotation=20, flip=0.5)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from cxrflow.base.errors import UserError
from cxrflow.base.extras import require_modules
from cxrflow.training.augment.policy import POLICIES, Policy
from cxrflow.training.augment.uniforms import uniforms

__all__ = ["POLICIES", "Policy", "augment", "find_policy", "uniforms"]


def find_policy(name: str) -> Callable:
    """Return the policy of that name.

    Raises UserError, which lists the known names, for an unknown one, or if the policy needs OpenCV and it is not
    installed.
    """
    policy = POLICIES[name] if name in POLICIES else _import(name)
    if isinstance(policy, Policy) and policy != Policy():
        require_modules(f"--augment {name}", "cv2", otherwise="use --augment none")
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
        raise UserError(
            f"--augment: expected module:function, got {name!r}, which cannot be imported ({error}); check the name, "
            "and PYTHONPATH of the workers"
        ) from error
    if not callable(found):
        raise UserError(
            f"--augment: expected {name!r} to be a function or a Policy, got {type(found).__name__}; choose another "
            "object"
        )
    return found


def augment(policy: Callable, pixels: np.ndarray, sample_ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Apply a policy to a batch.

    Args:
        policy: What ``find_policy`` returned.
        pixels: uint8 (B, H, W, 1).
        sample_ids: int64 (b,), b <= B, of the first b images. The images after them only fill up the batch and stay as
            they are.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.

    Returns:
        uint8 (B, H, W, 1).

    Raises:
        UserError: If a user's policy returns another shape or dtype.
    """
    count = len(sample_ids)
    if count == 0:
        return pixels
    images = pixels if count == len(pixels) else pixels[:count]
    augmented = policy(images, sample_ids, seed=seed, epoch=epoch)
    if getattr(augmented, "shape", None) != images.shape or augmented.dtype != np.uint8:
        kind = f"{augmented.dtype} {augmented.shape}" if isinstance(augmented, np.ndarray) else type(augmented).__name__
        raise UserError(f"--augment: expected the policy to return uint8 {images.shape}, got {kind}; change the policy")
    return augmented if count == len(pixels) else np.concatenate([augmented, pixels[count:]])
