"""DICOM through pydicom (the extra ``dicom``), which is imported when the first DICOM file comes."""

from __future__ import annotations

from cxrflow.images.decoded import Grayscale, Unreadable


def decode(data: bytes, at_least: tuple[int, int], max_pixels: int) -> Grayscale:
    raise Unreadable("unsupported", "DICOM needs the extra: pip install cxrflow[dicom]")
