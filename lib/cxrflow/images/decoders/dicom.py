"""DICOM through pydicom (the extra ``dicom``), which is imported when the first DICOM file comes.

The first frame of every transfer syntax that the extra decodes: uncompressed, RLE, JPEG (baseline, lossless),
JPEG-LS, JPEG 2000. Gray goes through ``cxrflow.images.voi``; colour becomes luma. Overlays, shutters, presentation
states and padding values are left out. Uncompressed, RLE and deflated pixels have no checksum.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cxrflow.images import voi
from cxrflow.images.checks.codestream import check_frame
from cxrflow.images.decode_result import DecodeError, Grayscale, join_notes
from cxrflow.images.formats import check_size

MISSING = "DICOM needs packages that are not installed ({}): pip install 'cxrflow[dicom]'"

# One decoder a syntax: pydicom would try the others after a failure, and the most lenient would win.
PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "gdcm",  # JPEG extended; 12 bits need a GPL package
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE
}
RLE = "1.2.840.10008.1.2.5"
OVERLAY_GROUPS, OVERLAY_BIT = range(0x6000, 0x6020, 2), 0x0102
PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class ShortReadDetector(io.BytesIO):
    """Notes reads beyond the end: pydicom swallows them and returns the elements that it got."""

    short = False

    def read(self, size: int = -1) -> bytes:
        got = super().read(size)
        self.short = self.short or (0 < len(got) < size)
        return got


def decode(data: bytes, min_size: tuple[int, int], max_pixels: int) -> Grayscale:
    """A DICOM file's bytes -> uint8 gray values of its first frame, in full: ``min_size`` changes nothing."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise DecodeError("unsupported", MISSING.format(error)) from error
    try:
        return _decode(data, max_pixels)
    except (DecodeError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # pylibjpeg's panics in Rust are not Exceptions
        raise _refusal(error) from error


def _refusal(error: BaseException) -> DecodeError:
    words = f"{type(error).__name__}: {error}"
    lower = words.lower()
    if "missing dependencies" in lower or "is not available" in lower:
        return DecodeError("unsupported", MISSING.format(error))
    if isinstance(error, NotImplementedError) or any(sign in lower for sign in ("not supported", "does not support")):
        return DecodeError("unsupported", words)
    short = any(sign in lower for sign in ("less than expected", "end of file", "truncated"))
    return DecodeError("truncated" if short or isinstance(error, EOFError) else "corrupt", words)


def _decode(data: bytes, max_pixels: int) -> Grayscale:
    dataset = _read(data)
    height, width = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    check_size(height, width, max_pixels)
    frames = int(dataset.get("NumberOfFrames") or 1)
    pixels = _first_frame(dataset, frames, height, width)
    gray, note = _luma(pixels, dataset) if pixels.ndim == 3 or _palette(dataset) else _monochrome(pixels, dataset)
    bits = int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 8)
    return Grayscale(
        pixels=gray, bits=bits, verified=True, note=join_notes(f"first of {frames} frames" if frames > 1 else "", note)
    )


def _read(data: bytes):
    from pydicom import dcmread

    file = ShortReadDetector(data)
    dataset = dcmread(file)
    if not any(dataset.get(name) for name in PIXEL_DATA):
        if file.short:
            raise DecodeError("truncated", "the file ends before its pixel data do")
        raise DecodeError("no_pixel_data", f"{getattr(dataset.get('SOPClassUID'), 'name', 'an object')}: no pixel data")
    return dataset


def _first_frame(dataset, frames: int, height: int, width: int) -> np.ndarray:
    """(H, W) stored values or (H, W, 3) RGB."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLE:
        check_frame(get_frame(dataset.PixelData, 0, number_of_frames=frames), height, width)
    # pydicom would drop bits above those stored without a word, and knows nothing of HighBit
    pixels = pixel_array(dataset, index=0, decoding_plugin=PLUGINS.get(syntax, ""), correct_unused_bits=False)
    return _bits_stored(pixels, dataset)


def _bits_stored(pixels: np.ndarray, dataset) -> np.ndarray:
    """Only the bits of the value, where others carry an overlay, lie below it, or may lack its sign.

    Unsigned values that reach into bits which nothing else claims are kept: ``voi.stored_range`` speaks of them.
    """
    allocated, stored = dataset.get("BitsAllocated", 8), dataset.get("BitsStored", 8)
    high = dataset.get("HighBit", stored - 1)
    shared = high != stored - 1 or any((group, OVERLAY_BIT) in dataset for group in OVERLAY_GROUPS)
    if stored == allocated or pixels.dtype.itemsize * 8 != allocated or not (shared or pixels.dtype.kind == "i"):
        return pixels
    return (pixels << (allocated - 1 - high)) >> (allocated - stored)


def _monochrome(pixels: np.ndarray, dataset) -> tuple[np.ndarray, str]:
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise DecodeError("unsupported", f"photometric interpretation {dataset.PhotometricInterpretation}")
    return voi.show(pixels, dataset)


def _palette(dataset) -> bool:
    return dataset.PhotometricInterpretation == "PALETTE COLOR"


def _luma(pixels: np.ndarray, dataset) -> tuple[np.ndarray, str]:
    """RGB or palette indices -> uint8 luma."""
    from pydicom.pixels import apply_color_lut

    bits = dataset.get("BitsStored", 8)
    if _palette(dataset):
        pixels, bits = apply_color_lut(pixels, dataset), dataset.RedPaletteColorLookupTableDescriptor[2]
    if bits != 8:
        pixels = pixels.astype(np.float64) * (255.0 / (2**bits - 1))
        if pixels.max() > 255:
            raise DecodeError("corrupt", f"colours beyond their {bits} bits")
    return np.asarray(Image.fromarray(np.rint(pixels).astype(np.uint8)).convert("L")), ""
