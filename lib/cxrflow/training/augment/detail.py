"""Fine detail: what detectors, archives and scaling programs do to it. One image at a time, with OpenCV.

Hospitals, and within one archive the wards, differ in sharpness, noise and compression, which a network can tell better
than anatomy: on Kermany's images a classifier that sees nothing but the spectrum's upper part and the borders
separates pneumonia from normal with an AUC of 0.96.
"""

from __future__ import annotations

import numpy as np

from cxrflow.training.augment.opencv import cv2

SHARPEN_SIGMA = 1.0
"""Pixels: the blur whose difference to the image is added."""


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; ``sigma`` in pixels. uint8 (H, W) to the same."""
    return cv2().GaussianBlur(image, (0, 0), sigma)


def sharpened(image: np.ndarray, amount: float) -> np.ndarray:
    """Unsharp masking: the image plus ``amount`` times what a blur takes from it. uint8 (H, W) to the same."""
    return cv2().addWeighted(image, 1 + amount, blurred(image, SHARPEN_SIGMA), -amount, 0)


def resampled(image: np.ndarray, share: float, kernel: float) -> np.ndarray:
    """Reduced to ``share`` of its height and width and enlarged again, by kernels that ``kernel`` (0 to 1) chooses."""
    library = cv2()
    height, width = image.shape
    down = (library.INTER_AREA, library.INTER_LINEAR, library.INTER_CUBIC)[int(kernel * 3)]
    up = (library.INTER_LINEAR, library.INTER_CUBIC)[int(kernel * 6) % 2]
    small = library.resize(image, (max(1, round(width * share)), max(1, round(height * share))), interpolation=down)
    return library.resize(small, (width, height), interpolation=up)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Through JPEG; ``quality`` from 0 to 100, as libjpeg counts it. uint8 (H, W) to the same."""
    library = cv2()
    _, stream = library.imencode(".jpg", image, [library.IMWRITE_JPEG_QUALITY, quality])
    return library.imdecode(stream, library.IMREAD_GRAYSCALE)
