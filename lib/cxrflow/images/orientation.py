"""EXIF orientation: reading it from a file's EXIF block and applying it to pixels."""

from __future__ import annotations

import struct

import numpy as np

TRANSPOSED = (5, 6, 7, 8)
"""Orientations that swap height and width."""

TAG = 0x0112

_APPLY = {
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.transpose(pixels[::-1, ::-1]),
    8: np.rot90,
}


def apply(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored -> as a viewer shows it; 1 and unknown numbers change nothing."""
    turn = _APPLY.get(orientation)
    return np.ascontiguousarray(turn(pixels)) if turn else pixels


def swap(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) as stored -> as a viewer shows it, or back."""
    return size[::-1] if orientation in TRANSPOSED else size


def read(exif: bytes) -> tuple[int, str]:
    """The orientation (1..8) in an EXIF block (a small TIFF file), and a note where the block cannot be read.

    A broken block does not touch the pixels, so the image is kept as it is stored.
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
        return 1, "EXIF block unreadable, taken as upright"
    return 1, ""
