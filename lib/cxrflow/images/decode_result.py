"""The results of a decoder and of decode_image, and the error that both raise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.base.extras import missing_package

REASONS = {
    "empty": "the file has no bytes",
    "not_an_image": "no decoder recognises the content",
    "truncated": "the file ends before the image does",
    "corrupt": "the image data are damaged",
    "too_large": "the image has more pixels than allowed",
    "unsupported": "an image of a kind that cannot be converted to 8-bit gray, or whose decoder is not installed",
    "no_pixel_data": "a DICOM object without an image",
    "crashed": "the decoding process died on this file twice",
    "unlabelled": "the labels file has no row for it, or the label rule does not match its path",
    "unreadable": "the file could not be opened or read",
    "in_another_split": "the same content is in another split",
}
"""All reasons why a file can be in quarantine, with their meanings. The list is closed."""


class DecodeError(Exception):
    """A file cannot be decoded. ``reason`` is one of REASONS, ``detail`` explains it."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail or REASONS[reason]

    def __reduce__(self):
        return type(self), (self.reason, self.detail)


def missing_codec(subject: str, error: ImportError) -> DecodeError:
    """The error for a file that needs a package which is not installed."""
    sentence = missing_package(subject, error.name)
    return DecodeError(
        "unsupported",
        str(sentence) if sentence else f"{subject}: expected the package {error.name}, found none",
    )


SEPARATOR = "; "
"""Between the notes of an image."""


@dataclass(frozen=True, kw_only=True)
class Grayscale:
    """A decoder's result: gray values of any depth, as a viewer shows them (orientation applied)."""

    pixels: np.ndarray
    """(height, width): uint8 with 0 black and 255 white, or deeper integers or floats with ``value_range``."""
    value_range: tuple[float, float] | None = None
    """The values of black and white in deeper pixels; None lets ``bit_depth.to_uint8`` decide."""
    full_size: tuple[int, int] | None = None
    """(height, width) of the full image, if ``pixels`` are at a reduced scale."""
    bits: int = 0
    """Bits per sample as stored in the file; 0 means those of the pixels' dtype."""
    pixel_aspect: float = 1.0
    """A pixel's height divided by its width. ``resize.pad`` corrects it."""
    note: str = ""
    """What was changed or ignored, such as "first of 12 pages"."""
    stored: np.ndarray | None = None
    """(height, width): the gray values in the file, if composing on black has changed them; for ``render_checks``."""
    verified: bool = False
    """Whether the decoder itself refuses damaged data. Otherwise the checks of the file's format run as well."""


@dataclass(frozen=True)
class DecodedImage:
    """An image in the form that a table stores."""

    pixels: np.ndarray
    """uint8 (height, width), row-major, 0 is black."""
    source_height: int
    """Pixels, after EXIF orientation."""
    source_width: int
    source_format: str
    """Such as JPEG, PNG or DICOM; empty if only a custom decoder recognises the format."""
    source_bits: int = 8
    """Bits per sample as stored in the file, from 1 to 64."""
    note: str = ""
    """What was changed or ignored, such as "MONOCHROME1 inverted"; empty if nothing was."""


def join_notes(*notes: str) -> str:
    """Join the notes that are not empty with SEPARATOR."""
    return SEPARATOR.join(note for note in notes if note)
