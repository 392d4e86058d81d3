"""Resize images with Pillow's antialiased bilinear filter. All resizing happens here."""

from __future__ import annotations

import numpy as np
from PIL import Image


def stretch(pixels: np.ndarray, height: int, width: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Resize uint8 (H, W) to uint8 (height, width) without keeping the aspect ratio; ``pixel_aspect`` has no effect.

    Every output pixel averages the area that it covers (triangle filter). Much larger images are first reduced by an
    integer factor to at least twice the target size. That is much faster and changes the result little.
    """
    if pixels.shape == (height, width):
        return pixels
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized)


def pad(pixels: np.ndarray, height: int, width: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Resize uint8 (H, W) to uint8 (height, width), keeping the aspect ratio between black borders.

    ``pixel_aspect`` is a pixel's height divided by its width. The image is centred. If the border is odd, it is one
    pixel wider at the bottom or right.
    """
    displayed_height = pixels.shape[0] * pixel_aspect
    scale = min(height / displayed_height, width / pixels.shape[1])
    inner_height = min(height, max(1, round(displayed_height * scale)))
    inner_width = min(width, max(1, round(pixels.shape[1] * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas = np.zeros((height, width), np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = stretch(pixels, inner_height, inner_width)
    return canvas


RESIZES = {"stretch": stretch, "pad": pad}
