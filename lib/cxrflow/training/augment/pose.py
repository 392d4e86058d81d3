"""Pose: one affine warp an image, so that it is resampled once whatever was asked for.

The warp is OpenCV's. Measured on one thread, bilinear, 224x224 pixels: cv2.warpAffine 6,000 images/s, Pillow's
Image.transform 2,000, scipy.ndimage.affine_transform 570.
"""

from __future__ import annotations

import numpy as np

from cxrflow.training.augment.opencv import cv2

GRAYS = 200
"""Brightest margin: film and collimator are darker than bone, and no detector leaves a white one."""


def inverse_maps(size: tuple[int, int], radians, right, down, zoom, flip, aspect=1.0, shear=0.0) -> np.ndarray:
    """From places in the new image to places in the old one: float64 (B, 2, 3), on (x, y, 1) in pixels.

    The old image (H, W) is mirrored where ``flip``, made ``aspect`` times as wide for its height at the same area, sheared
    (x grows by ``shear`` times the height below the centre), turned anticlockwise and enlarged about its centre, then
    moved. All arguments but ``size`` are arrays (B,), or numbers.
    """
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    radians, zoom, flip, aspect, shear = np.broadcast_arrays(radians, zoom, flip, aspect, shear)
    cos, sin, side = np.cos(radians) / zoom, np.sin(radians) / zoom, np.where(flip, -1.0, 1.0)
    turn = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)
    straighten = np.array([[np.ones_like(shear), -shear], [np.zeros_like(shear), np.ones_like(shear)]]).transpose(
        2, 0, 1
    )
    narrow = np.stack([side / np.sqrt(aspect), np.sqrt(aspect)], axis=1)[:, :, None] * np.eye(2)
    linear = narrow @ straighten @ turn
    moved = centre + np.stack([right, down], axis=1)
    return np.concatenate([linear, (centre - np.einsum("bij,bj->bi", linear, moved))[..., None]], axis=2)


def margins(kinds: np.ndarray, grays: np.ndarray) -> list[tuple[int, int]]:
    """What is shown outside of each image, as OpenCV's border mode and its value: black, one gray, or the edge drawn
    out, a third each. ``kinds`` and ``grays``: float (B,), from 0 to 1."""
    library = cv2()
    return [
        (library.BORDER_REPLICATE, 0)
        if kind > 2 / 3
        else (library.BORDER_CONSTANT, int(gray * GRAYS) if kind > 1 / 3 else 0)
        for kind, gray in zip(kinds.tolist(), grays.tolist(), strict=True)
    ]


def warp(pixels: np.ndarray, maps: np.ndarray, outside: list[tuple[int, int]] | None = None) -> np.ndarray:
    """Each image (H, W, 1) of ``pixels`` resampled once, bilinearly, by its inverse map; black outside, or as ``margins``
    says."""
    library = cv2()
    made = np.empty(pixels.shape, np.uint8)
    outside = outside or [(library.BORDER_CONSTANT, 0)] * len(pixels)
    for image, inverse, (mode, value), place in zip(pixels, maps, outside, made, strict=True):
        library.warpAffine(
            image,
            inverse,
            image.shape[1::-1],
            dst=place,
            flags=library.INTER_LINEAR | library.WARP_INVERSE_MAP,
            borderMode=mode,
            borderValue=value,
        )
    return made
