"""Notes on suspicious results: nearly empty, clipped or inverted images (kinds of ``cxrflow.images.doubts``).

``decode_image`` checks every format whose values are deeper than 8 bits or were composed on black. DICOM is checked by
its own code, because only that knows the stored values and which of them are padding.
"""

from __future__ import annotations

import numpy as np

from cxrflow.images.doubts import DOUBTS

MIN_LEVELS = 24
"""An image with fewer gray levels between its 1st and 99th percentile is nearly empty."""
MAX_CLIPPED = 0.5
"""A larger share of different stored values that became all black or all white is noted."""
SAMPLE = 2**16
"""Pixels that the checks look at. Larger images are subsampled, so the cost is bounded."""


def check_rendering(stored: np.ndarray, shown: np.ndarray, valid: np.ndarray | None = None) -> list[str]:
    """Compare the stored values (H, W) with the shown gray levels (H, W) and return notes.

    ``valid`` is False for padding; None means that there is none.
    """
    step = max(1, int(np.sqrt(stored.size / SAMPLE)))
    before, after = stored[::step, ::step].ravel(), shown[::step, ::step].ravel()
    if valid is not None:
        keep = valid[::step, ::step].ravel()
        before, after = before[keep], after[keep]
    if before.size < 2:
        return []
    low, high = np.percentile(after, [1, 99], method="nearest").astype(int)
    first, last = (float(value) for value in np.percentile(before, [1, 99], method="nearest"))
    notes = []
    if high - low < MIN_LEVELS and _levels(before, first, last) > max(2 * (high - low), MIN_LEVELS):
        notes.append(
            f"{DOUBTS['nearly_empty'].beginning}{high - low} of 256 gray levels between the 1st and 99th percentile"
        )
    for level, word in ((0, "black"), (255, "white")):
        clipped = before[after == level]
        if clipped.size > MAX_CLIPPED * before.size and _levels(clipped, clipped.min(), clipped.max()) > MIN_LEVELS:
            share = 100 * clipped.size / before.size
            notes.append(f"{DOUBTS['clipped'].beginning}{share:.0f} % of the pixels are {word}")
    return notes


def is_decreasing(stored: np.ndarray, shown: np.ndarray) -> bool:
    """Whether high stored values are dark: the covariance of both is negative. One axis each."""
    before, after = stored.astype(np.float64), shown.astype(np.float64)
    return float(((before - before.mean()) * (after - after.mean())).sum()) < 0


def _levels(values: np.ndarray, low: float, high: float) -> float:
    """How many levels the range offers: its width for integers, unlimited for floats that differ."""
    return (high - low) if values.dtype.kind in "iu" else (np.inf if high > low else 0)
