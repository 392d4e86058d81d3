"""What a decoder returns, what decode_image returns, and how both refuse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REASONS = {
    "empty": "the file has no bytes",
    "not_an_image": "no decoder knows the content",
    "truncated": "the file ends before the image does",
    "corrupt": "the image's data are damaged",
    "too_large": "the image has more pixels than allowed",
    "unsupported": "an image of a kind that has no agreed way to 8 bits, or whose decoder is not installed",
    "no_pixel_data": "a DICOM object without an image",
    "crashed": "the decoder's process ended on it, twice",
    "unlabelled": "the labels file tells nothing of it, or the label rule finds nothing in its path",
    "unreadable": "the file could not be opened or read",
    "in_another_split": "the same content is in another split",
}
"""Why a file is in quarantine: the closed list, with its meaning."""


class DecodeError(Exception):
    """A file that gives no image. ``reason`` is one of REASONS, ``detail`` the decoder's own words."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail or REASONS[reason]

    def __reduce__(self):
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class Grayscale:
    """What a decoder hands over: gray values of any depth, as a viewer shows them (orientation applied)."""

    pixels: np.ndarray
    """(height, width): uint8 with 0 black and 255 white, or deeper integers or floats, see ``value_range``."""
    value_range: tuple[float, float] | None = None
    """The values that mean black and white in deeper pixels; None leaves it to ``values.to_bytes``."""
    full_size: tuple[int, int] | None = None
    """(height, width) of the whole image, where ``pixels`` are at a reduced scale."""
    bits: int = 0
    """Bits a sample as the file stores them; 0 means those of the pixels' dtype."""
    note: str = ""
    """What was left out or done, such as "first of 12 pages"."""
    verified: bool = False
    """The decoder refuses damaged data by itself; otherwise the checks of the file's format run as well."""


@dataclass(frozen=True)
class DecodedImage:
    """An image ready to be stored."""

    pixels: np.ndarray
    """uint8 (height, width), row-major, 0 is black."""
    source_height: int
    """Pixels, as a viewer shows the file (after EXIF orientation)."""
    source_width: int
    source_format: str
    """Such as JPEG, PNG or DICOM; empty where only a user's decoder knows the format."""
    source_bits: int = 8
    """Bits a sample as the file stores them, from 1 to 64."""
    note: str = ""
    """What was left out or done, such as "MONOCHROME1 inverted"; empty for nothing."""


def join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
