"""JPEG 2000 and JPEG XL files, which need packages that are not always installed. They are imported on first use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cxrflow.images.bit_depth import infer_range
from cxrflow.images.checks import codestream, jpegxl
from cxrflow.images.decode_result import DecodeError, Grayscale, join_notes, missing_codec
from cxrflow.images.formats import check_size
from cxrflow.images.luma import luma_of


def decode_optional(data: bytes, kind: str, max_pixels: int) -> Grayscale:
    """Decode a file of one of the formats in OPTIONAL.

    Raises:
        DecodeError: the file is damaged, or the package for it is not installed.
    """
    try:
        return OPTIONAL[kind](data, max_pixels)
    except (DecodeError, MemoryError):
        raise
    except ImportError as error:
        raise missing_codec(kind, error) from error
    except Exception as error:  # the codecs raise types of their own
        raise DecodeError("corrupt", f"the {kind} data are damaged") from error


def _decode_jpeg2000(data: bytes, max_pixels: int) -> Grayscale:
    import openjpeg

    check_size(*codestream.check_frame(data), max_pixels)
    start = codestream.find_jpeg2000(data)
    header = openjpeg.get_parameters(data[start:])
    values = openjpeg.decode(data[start:])
    return _to_grayscale(values, int(header["precision"]), bool(header["is_signed"]))


def _decode_jpegxl(data: bytes, max_pixels: int) -> Grayscale:
    import imagecodecs

    check_size(*jpegxl.read_size(data), max_pixels)
    values = imagecodecs.jpegxl_decode(data, numthreads=1)
    return _to_grayscale(values, jpegxl.read_header(data).bits or values.dtype.itemsize * 8, False)


def _to_grayscale(values: np.ndarray, bits: int, signed: bool) -> Grayscale:
    """Convert (H, W) or (H, W, channels) of 1 to 4 channels, the even ones with alpha, to gray on black."""
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim == 2 and (signed or values.dtype.kind == "f"):
        return Grayscale(pixels=values, bits=bits, verified=True)
    if values.ndim == 3 and (values.shape[2] > 4 or values.dtype.kind == "f"):
        raise DecodeError("unsupported", f"{values.shape[2]} channels of {values.dtype}; expected up to 4 of integers")
    color = values if values.ndim == 2 else values[..., : 1 if values.shape[2] == 2 else 3]
    (_, white), note = (0, 2**bits - 1), ""
    if bits == 16:
        (_, white), note = infer_range(0, color.max().item(), np.dtype(np.uint16))
    if values.ndim == 2:
        return Grayscale(pixels=values, value_range=(0, white), bits=bits, note=note, verified=True)
    luma = color[..., 0] if color.shape[2] == 1 else luma_of(color)
    stored = None
    if values.shape[2] in (2, 4):
        stored = luma.astype(np.int64)
        luma = np.rint(luma * (values[..., -1] / (2**bits - 1)))
    pixels = np.minimum(luma, white).astype(np.uint8 if bits <= 8 else np.uint16)
    return Grayscale(
        pixels=pixels, value_range=(0, white), bits=bits, note=join_notes(note), verified=True, stored=stored
    )


OPTIONAL: dict[str, Callable[[bytes, int], Grayscale]] = {"JPEG2000": _decode_jpeg2000, "JPEGXL": _decode_jpegxl}
"""The decoder of each format."""
