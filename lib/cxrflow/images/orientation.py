"""EXIF orientation: read it from a file's EXIF block and apply it to pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

TRANSPOSED = (5, 6, 7, 8)
"""Orientations that swap height and width."""

TAG = 0x0112

_APPLY: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.transpose(pixels[::-1, ::-1]),
    8: np.rot90,
}


def apply(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels (H, W, ...) from the stored to the displayed orientation; 1 and unknown values change nothing."""
    turn = _APPLY.get(orientation)
    return np.ascontiguousarray(turn(pixels)) if turn else pixels


def swap(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Convert (height, width) from the stored to the displayed orientation, or back."""
    return size[::-1] if orientation in TRANSPOSED else size


def read(exif: bytes) -> tuple[int, str]:
    """Return the orientation (1..8) of an EXIF block (a small TIFF file), and a note if the block is unreadable.

    A broken block does not affect the pixels, so the image keeps its stored orientation.
    """
    if not exif:
        return 1, ""
    if exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    try:
        order = {b"II": "<", b"MM": ">"}[bytes(exif[:2])]
        directory = struct.unpack_from(order + "I", exif, 4)[0]
        for entry in range(struct.unpack_from(order + "H", exif, directory)[0]):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, directory + 2 + 12 * entry)
            if tag == TAG and kind == 3:
                return (value, "") if 1 <= value <= 8 else (1, f"EXIF orientation {value} ignored")
    except (KeyError, struct.error):
        return 1, "EXIF block unreadable, assumed upright"
    return 1, ""
