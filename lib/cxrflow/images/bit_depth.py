"""From deep values to 8 bits. Every rule keeps the order of the values and clips none.

What is known about the values decides, in this order:

1. Their range is stated (by the format, or by a decoder): it becomes 0..255.
2. Unsigned integers of up to 16 bits: the range is that of the smallest of 8, 10, 12, 14 and 16 bits that holds
   every value. Detectors give 10 to 14 bits, and files that carry them in 16 come out nearly black by any other
   rule. A power of two is a plain shift, so an 8-bit image that was widened to 16 bits by either custom
   (times 256 or 257) comes back exactly.
3. Everything else (32-bit integers, negative values, floats): from the smallest to the largest value.

Cases 2 (below the full depth) and 3 depend on the image itself, so they are said in its note.
"""

from __future__ import annotations

import numpy as np

from cxrflow.images.decode_result import DecodeError

DEPTHS = (8, 10, 12, 14, 16)


def to_uint8(pixels: np.ndarray, value_range: tuple[float, float] | None = None) -> tuple[np.ndarray, str]:
    """Any integers or floats (H, W) -> uint8 (H, W) and a note on the rule where it depends on the image.

    Raises DecodeError on NaN and infinity (they have no gray) and on values outside the stated range.
    """
    if pixels.dtype == np.uint8 and value_range in (None, (0, 255)):
        return pixels, ""
    low, high = finite_range(pixels)
    if value_range is None:
        value_range, note = infer_range(low, high, pixels.dtype)
    else:
        note = ""
        if low < min(value_range) or high > max(value_range):
            raise DecodeError("corrupt", f"values from {low:g} to {high:g}, outside the stated range {value_range}")
    return scale(pixels, *value_range), note


def finite_range(pixels: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value. Raises DecodeError on NaN and infinity."""
    low, high = pixels.min().item(), pixels.max().item()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DecodeError("corrupt", "NaN or infinite values, which have no gray")
    return low, high


def infer_range(low: float, high: float, dtype: np.dtype) -> tuple[tuple[float, float], str]:
    """The values that become black and white where nothing states them (rules 2 and 3 above), and the note."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iub" and dtype.itemsize <= 2 and low >= 0:
        depth = next(depth for depth in DEPTHS if high < 2**depth)
        note = "" if depth == 8 * dtype.itemsize else f"values use {depth} of {8 * dtype.itemsize} bits"
        return (0, 2**depth - 1), note
    return (low, high), f"scaled from its own range, {low:g} to {high:g}"


def scale(pixels: np.ndarray, black: float, white: float) -> np.ndarray:
    """Values between black and white -> uint8; integers fall into 256 equal steps, floats are rounded.

    ``black`` may be above ``white``: the image is then inverted. All equal gives 0.
    """
    if black > white:
        return 255 - scale(pixels, white, black)
    if black == white:
        return np.zeros(pixels.shape, np.uint8)
    span = white - black
    if pixels.dtype.kind in "iu" and black == 0 and span >= 255 and (int(span) + 1) & int(span) == 0:
        return (pixels >> (int(span).bit_length() - 8)).astype(np.uint8)
    grays = pixels.astype(np.float64) - black
    grays *= 255.0
    grays /= span
    return np.rint(grays, out=grays).astype(np.uint8)
