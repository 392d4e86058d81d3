"""The one place where images change their size: antialiased bilinear, as Pillow does it."""

from __future__ import annotations

import numpy as np
from PIL import Image


def stretch(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W) -> uint8 (height, width), whatever the aspect.

    Every output pixel is an average over the area that it covers (triangle filter). Far larger images are first
    reduced by a whole factor to at least twice the size, which costs a fraction and changes little.
    """
    if pixels.shape == (height, width):
        return pixels
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized)


def pad(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W) -> uint8 (height, width) with the aspect kept, centred between black borders.

    An odd border is one pixel wider at the bottom or right.
    """
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    inner_height = min(height, max(1, round(pixels.shape[0] * scale)))
    inner_width = min(width, max(1, round(pixels.shape[1] * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas = np.zeros((height, width), np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = stretch(pixels, inner_height, inner_width)
    return canvas


RESIZES = {"stretch": stretch, "pad": pad}
