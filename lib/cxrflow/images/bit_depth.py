"""Convert deep pixel values to 8 bits. Every rule keeps the order of the values and clips none of them.

The first rule that applies decides:

1. The format or the decoder states the range of the values: that range becomes 0..255.
2. Unsigned integers of up to 16 bits: the range is 0 to the largest value of the smallest depth (8, 10, 12, 14 or 16
   bits) that can represent every pixel. Detectors deliver 10 to 14 bits. Stored in 16 bits, their images would be
   nearly black if 65535 were white. Ranges of whole bits are converted by a shift, so an 8-bit image that was
   multiplied by 256 or 257 to fill 16 bits is restored exactly.
3. All other values (32-bit integers, negative values, floats): the range is the smallest to the largest pixel.

Rule 2 (below the full depth) and rule 3 depend on the image's own pixels, so the image's note mentions them.
"""

from __future__ import annotations

import numpy as np

from cxrflow.images.decode_result import DecodeError

DEPTHS = (8, 10, 12, 14, 16)


def to_uint8(pixels: np.ndarray, value_range: tuple[float, float] | None = None) -> tuple[np.ndarray, str]:
    """Convert integers or floats (H, W) to uint8 (H, W), and return a note if the rule depended on the pixels.

    Raises:
        DecodeError: a value is NaN, infinite or outside the stated range.
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
    """Return the smallest and the largest value. Raises DecodeError if a value is NaN or infinite."""
    low, high = pixels.min().item(), pixels.max().item()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DecodeError("corrupt", "NaN or infinite values, which have no gray level")
    return low, high


def infer_range(low: float, high: float, dtype: np.dtype) -> tuple[tuple[float, float], str]:
    """Return the values of black and white by rules 2 and 3 above, and the note."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iub" and dtype.itemsize <= 2 and low >= 0:
        depth = next(depth for depth in DEPTHS if high < 2**depth)
        note = "" if depth == 8 * dtype.itemsize else f"values use {depth} of {8 * dtype.itemsize} bits"
        return (0, 2**depth - 1), note
    return (low, high), f"scaled from its own range, {low:g} to {high:g}"


def scale(pixels: np.ndarray, black: float, white: float) -> np.ndarray:
    """Map values from ``black``..``white`` to uint8 0..255.

    Integers from 0 to 2**n - 1 are shifted into 256 equal steps; all other values are rounded. If ``black`` is above
    ``white``, the image is inverted. If they are equal, the result is 0.
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
