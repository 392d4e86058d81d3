"""Changes of exposure, by one look-up table per image."""

from __future__ import annotations

import numpy as np

from cxrflow.training.augment.opencv import cv2


def exposure_tables(gain: np.ndarray, offset: np.ndarray, gamma: np.ndarray | float = 1.0) -> np.ndarray:
    """Return the table of each sample, uint8 (B, 256), from gain, offset and gamma, float (B,).

    A gray value v becomes (g - 127.5) * gain + 127.5 + 255 * offset, where g = 255 * (v / 255) ** gamma.
    """
    shaped = 255 * (np.arange(256) / 255) ** np.broadcast_to(gamma, gain.shape)[:, None]
    return np.clip(np.rint((shaped - 127.5) * gain[:, None] + 127.5 + 255 * offset[:, None]), 0, 255).astype(np.uint8)


def look_up(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Apply a row of ``tables``, uint8 (B, 256), to each image of ``pixels``; both images are uint8 (B, H, W, 1)."""
    result = np.empty(pixels.shape, np.uint8)
    for image, table, out in zip(pixels, tables, result, strict=True):
        cv2().LUT(image, table, dst=out)
    return result
