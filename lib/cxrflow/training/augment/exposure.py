"""Exposure: gray values by one table look-up an image."""

from __future__ import annotations

import numpy as np

from cxrflow.training.augment.opencv import cv2


def exposure_tables(gain: np.ndarray, offset: np.ndarray, gamma: np.ndarray | float = 1.0) -> np.ndarray:
    """What becomes of each gray value, by sample: uint8 (B, 256), of (g - 127.5) * gain + 127.5 + 255 * offset, where g is
    255 * (v / 255) ** gamma."""
    shaped = 255 * (np.arange(256) / 255) ** np.broadcast_to(gamma, gain.shape)[:, None]
    return np.clip(np.rint((shaped - 127.5) * gain[:, None] + 127.5 + 255 * offset[:, None]), 0, 255).astype(np.uint8)


def look_up(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Each image (H, W, 1) of ``pixels`` through its own row of ``tables``: uint8 (B, H, W, 1)."""
    made = np.empty(pixels.shape, np.uint8)
    for image, table, place in zip(pixels, tables, made, strict=True):
        cv2().LUT(image, table, dst=place)
    return made
