"""What a decoder returns, and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REASONS = {
    "empty": "the file has no bytes",
    "not_an_image": "no decoder knows the content",
    "truncated": "the file ends before the image does",
    "corrupt": "the image's data are damaged",
    "too_large": "the image has more pixels than allowed",
    "unsupported": "an image whose values have no agreed way to 8 bits",
    "unlabelled": "the labels file has no line for it",
    "unreadable": "the file could not be opened or read",
}
"""Why a file is in quarantine: the closed list, with its meaning."""


class Unreadable(Exception):
    """A file that gives no image. ``reason`` is one of REASONS, ``detail`` the decoder's own words."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail or REASONS[reason]


@dataclass(frozen=True)
class Decoded:
    """An image ready to be stored."""

    pixels: np.ndarray
    """uint8 (height, width), row-major, 0 is black."""
    source_height: int
    """Pixels, as a viewer shows the file (after EXIF orientation)."""
    source_width: int
    source_format: str
    """Such as JPEG or PNG."""
