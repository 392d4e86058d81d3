"""The DICOM decoder. It uses pydicom (the extra ``dicom``), which is imported when the first DICOM file comes.

It reads the first frame of uncompressed, RLE, JPEG (baseline, extended, progressive, lossless), JPEG-LS and JPEG 2000
images. Gray follows ``cxrflow.images.dcm.grayscale``; colour is converted to luma. Overlays, shutters and presentation
states are not applied. Uncompressed, RLE and deflated pixels have no checksum.
"""

from __future__ import annotations

import contextlib
import functools
import importlib

from cxrflow.images.dcm import color, grayscale
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.file_parser import parse_file
from cxrflow.images.dcm.pixel_aspect import read_aspect
from cxrflow.images.dcm.pixel_data import read_pixels
from cxrflow.images.decode_result import DecodeError, Grayscale, join_notes, missing_codec

DISPLAY_ELEMENTS = (
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelSpacing",
)
FUNCTIONAL_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")


def decode(data: bytes, min_size: tuple[int, int], max_pixels: int) -> Grayscale:
    """Decode the first frame of a DICOM file to uint8 gray at full scale; ``min_size`` has no effect."""
    try:
        return _decode(data, max_pixels)
    except (DecodeError, MemoryError):
        raise
    except ImportError as error:
        raise missing_codec("DICOM", error) from error
    except Exception as error:  # nothing of an exception's text, which may quote the header, goes into the table
        raise DecodeError("corrupt", "the DICOM file contradicts itself or is damaged; export it again") from error


@functools.cache
def import_packages() -> None:
    """Import what DICOM needs and is installed, which takes a third of a second. Child processes then have it."""
    for name in ("pydicom.filereader", "rle.rle", "jpeg_ls", "openjpeg", "gdcm"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        from imagecodecs import jpeg8_decode  # noqa: F401 (a module of its own)


def _decode(data: bytes, max_pixels: int) -> Grayscale:
    file = parse_file(data)
    elements = Elements(file.dataset, file.notes)
    _apply_functional_groups(elements)
    stored, frames = read_pixels(file, elements, max_pixels)
    if frames > 1:
        elements.notes.insert(0, f"first of {frames} frames")
    if stored.space in ("MONOCHROME1", "MONOCHROME2"):
        pixels = grayscale.render(stored, elements)
    else:
        pixels = color.to_luma(stored, elements)
    return Grayscale(
        pixels=pixels,
        bits=stored.bits,
        verified=True,
        pixel_aspect=read_aspect(elements),
        note=join_notes(*elements.notes),
    )


def _apply_functional_groups(elements: Elements) -> None:
    """Copy the first frame's display elements of enhanced objects (PS3.3 C.7.6.16) to the top of the data set."""
    from pydicom.tag import Tag

    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in elements.items(keyword)[:1]:
            for name in FUNCTIONAL_GROUPS:
                for item in group.items(name)[:1]:
                    for display in DISPLAY_ELEMENTS:
                        if item.has(display) or item.items(display):
                            tag = Tag(display)
                            elements.dataset[tag] = item.dataset.get_item(tag)
