"""JPEG whose sampling factors the strict decoder refuses, such as 4:1:0: Pillow decodes them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, JpegImagePlugin

from cxrflow.images.checks import jpeg, jpeg_entropy
from cxrflow.images.doubts import DOUBTS

NOT_CHECKED = f"{DOUBTS['unchecked'].beginning} for damage"


def decode_unusual_sampling(
    data: bytes, header: jpeg.Header, min_size: tuple[int, int] | None = None
) -> tuple[np.ndarray, str]:
    """Decode to uint8 luma (H, W), and return a note if the file could not be checked for damage.

    Args:
        data: the file.
        header: its header.
        min_size: the result is at the smallest scale not below this (height, width); None means full scale.

    Raises:
        DecodeError: a sequential file is damaged. Progressive ones cannot be checked.
    """
    note = NOT_CHECKED
    if header.process in (0xC0, 0xC1) and data[header.scan] == len(header.components):
        jpeg_entropy.check_sequential_scan(data, header)
        note = ""
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        return draft_luma(image, header, min_size or (header.height, header.width)), note


def draft_luma(image: Image.Image, header: jpeg.Header, min_size: tuple[int, int]) -> np.ndarray:
    """Decode an opened JPEG to uint8 luma at the smallest scale not below ``min_size`` (height, width)."""
    image.draft("L", min_size[::-1])
    return np.asarray(cmyk_to_luma(image, header.adobe) if image.mode == "CMYK" else image.convert("L"))


def cmyk_to_luma(image: Image.Image, adobe: bool) -> Image.Image:
    """Convert CMYK to luma. Pillow always inverts CMYK JPEGs, which is wrong for files without Adobe's marker."""
    return (image if adobe else ImageChops.invert(image)).convert("RGB").convert("L")
