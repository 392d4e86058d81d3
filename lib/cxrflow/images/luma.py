"""Luma of ITU-R BT.601 for values that Pillow's own conversion does not take: more than 8 bits, or not yet scaled."""

from __future__ import annotations

import numpy as np

_WEIGHTS = np.array([0.299, 0.587, 0.114])
_WEIGHTS_16 = np.array([19595, 38470, 7471], np.int64)
"""The weights times 65536, as Pillow rounds them."""


def luma_of(colors: np.ndarray) -> np.ndarray:
    """Convert RGB (..., 3) of any number type to the nearest whole luma, float64 (...)."""
    return np.rint(colors @ _WEIGHTS)


def luma_like_pillow(colors: np.ndarray) -> np.ndarray:
    """Convert whole RGB (..., 3) to luma, int64 (...), by the arithmetic that Pillow uses for 8 bits."""
    return (colors.astype(np.int64) @ _WEIGHTS_16 + 0x8000) >> 16
