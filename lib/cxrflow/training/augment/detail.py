"""Changes of fine detail, as detectors, archives and resizing cause them. One image at a time, with OpenCV.

Hospitals differ in sharpness, noise and compression, and so do wards within one archive. A network learns these
differences more easily than anatomy: on Kermany's images, a classifier of only the upper part of the spectrum and the
borders separates pneumonia from normal with an AUC of 0.96.
"""

from __future__ import annotations

import numpy as np

from cxrflow.training.augment.opencv import cv2

SHARPEN_SIGMA = 1.0
"""Sigma in pixels of the blur in unsharp masking."""


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Apply a Gaussian blur of ``sigma`` pixels to an image, uint8 (H, W)."""
    return cv2().GaussianBlur(image, (0, 0), sigma)


def sharpened(image: np.ndarray, amount: float) -> np.ndarray:
    """Apply unsharp masking to an image, uint8 (H, W): add ``amount`` times the difference to a blurred copy."""
    return cv2().addWeighted(image, 1 + amount, blurred(image, SHARPEN_SIGMA), -amount, 0)


def resampled(image: np.ndarray, share: float, kernel: float) -> np.ndarray:
    """Shrink an image, uint8 (H, W), to ``share`` of its height and width and enlarge it again.

    ``kernel``, from 0 to 1, chooses the interpolation.
    """
    library = cv2()
    height, width = image.shape
    down = (library.INTER_AREA, library.INTER_LINEAR, library.INTER_CUBIC)[int(kernel * 3)]
    up = (library.INTER_LINEAR, library.INTER_CUBIC)[int(kernel * 6) % 2]
    small = library.resize(image, (max(1, round(width * share)), max(1, round(height * share))), interpolation=down)
    return library.resize(small, (width, height), interpolation=up)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress an image, uint8 (H, W), as JPEG and decode it again; ``quality`` from 0 to 100 as in libjpeg."""
    library = cv2()
    _, stream = library.imencode(".jpg", image, [library.IMWRITE_JPEG_QUALITY, quality])
    return library.imdecode(stream, library.IMREAD_GRAYSCALE)
