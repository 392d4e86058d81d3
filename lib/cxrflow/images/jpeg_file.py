"""What all decoders do with a JPEG file around the decoding of its pixels: repair, checks, orientation and notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from cxrflow.images import deep_jpeg, orientation
from cxrflow.images.checks import jpeg
from cxrflow.images.decode_result import DecodeError, Grayscale, join_notes
from cxrflow.images.formats import check_size
from cxrflow.images.jpeg_sampling import decode_unusual_sampling

ReadPixels = Callable[[bytes, jpeg.Header, tuple[int, int]], np.ndarray]


def decode_jpeg(data: bytes, min_size: tuple[int, int], max_pixels: int, read_pixels: ReadPixels) -> Grayscale:
    """Decode a JPEG file as a viewer shows it, at the smallest scale not below ``min_size`` (height, width).

    Args:
        data: The file.
        min_size: Of the image as it is shown, after its EXIF orientation.
        max_pixels: Of the full image.
        read_pixels: From (file, header, size as stored) to uint8 luma (H, W) as stored. A DecodeError with the reason
            ``unsupported`` means that it cannot check a file with these sampling factors.

    Raises:
        DecodeError: the file is damaged, too large or of an unsupported kind.
    """
    data, note = jpeg.repair_headers(data)
    header = jpeg.read_header(data)
    check_size(header.height, header.width, max_pixels)
    if deep_jpeg.is_deep_jpeg(header):
        return _as_shown(deep_jpeg.decode(data, header), header, note)
    jpeg.check_header(header, data)
    size = orientation.swap(min_size, header.orientation)
    try:
        pixels = read_pixels(data, header, size)
    except DecodeError as refused:
        if refused.reason != "unsupported":
            raise
        pixels, unchecked = decode_unusual_sampling(data, header, size)
        note = join_notes(note, unchecked)
    return _as_shown(Grayscale(pixels=pixels, bits=8), header, note)


def _as_shown(decoded: Grayscale, header: jpeg.Header, note: str) -> Grayscale:
    return dataclasses.replace(
        decoded,
        pixels=orientation.apply(decoded.pixels, header.orientation),
        note=join_notes(header.note, note),
        verified=True,
        full_size=orientation.swap((header.height, header.width), header.orientation),
    )
