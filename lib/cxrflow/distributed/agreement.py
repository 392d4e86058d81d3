"""Whether all workers call a collective operation with the same arrays. Otherwise it would hang, abort or mix bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

DIGEST_BYTES = 32


def describe_arrays(
    operation: str, arrays: Sequence[np.ndarray], names: Sequence[str] | None, any_length: bool = False
) -> list[str]:
    """The operation, then the name, dtype and shape of each array; these must be the same on all workers.

    Args:
        operation: Name of the collective operation.
        arrays: This worker's arrays.
        names: Their names for errors; their numbers if not given.
        any_length: Whether the workers' arrays may differ in the length of their first axis.
    """
    names = [f"array {index}" for index in range(len(arrays))] if names is None else names
    return [
        operation,
        *(
            f"{name}: {array.dtype} {('n', *array.shape[1:]) if any_length else tuple(array.shape)}"
            for name, array in zip(names, arrays, strict=True)
        ),
    ]


def digest(description: list[str]) -> np.ndarray:
    """uint8 (DIGEST_BYTES,): equal for equal descriptions."""
    return np.frombuffer(hashlib.sha256("\n".join(description).encode()).digest(), np.uint8)


def explain_difference(descriptions: list[list[str]]) -> str | None:
    """The first difference between the workers' descriptions, which are in order of rank; None if there is none."""
    first = descriptions[0]
    for rank, other in enumerate(descriptions):
        for own, found in zip(first, other, strict=False):
            if own != found:
                return (
                    f"expected the same {first[0]} on all workers, got {own} on worker 0 and {found} on worker {rank}"
                )
        if len(first) != len(other):
            return (
                f"expected the same {first[0]} on all workers, got {len(first) - 1} arrays on worker 0 and "
                f"{len(other) - 1} on worker {rank}"
            )
    return None
