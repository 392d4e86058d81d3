"""Decode one compressed frame. The codec is detected from the frame, not from the transfer syntax.

Each codec reports the precision, sign and colour space that the frame itself states. Frames are checked for damage
before they are decoded, because some decoders fill up missing data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxrflow.images.checks import codestream, jpeg, jpeg_lossless, jpegxl
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.image_layout import ImageLayout
from cxrflow.images.decode_result import DecodeError, missing_codec
from cxrflow.images.formats import JPEG_XL, check_size
from cxrflow.images.jpeg_sampling import decode_unusual_sampling


@dataclass(frozen=True, kw_only=True)
class DecodedFrame:
    """Values of a frame, with what the frame itself states about them."""

    values: np.ndarray
    """(H, W) or (H, W, 3)."""
    bits: int
    signed: bool = False
    space: str = "GRAY"
    """GRAY, LUMA (colour that is converted to luma already), RGB or YBR_FULL."""


def find_codec(frame: bytes) -> str | None:
    """Return the name of the codec whose signature a frame has; None if it is not known."""
    if frame[:2] == b"\xff\xd8":
        return _jpeg_kind(frame)
    if codestream.find_jpeg2000(frame) is not None:
        return "JPEG 2000"
    if frame.startswith(JPEG_XL):
        return "JPEG XL"
    if len(frame) >= 64:
        count, first = struct.unpack_from("<II", frame)
        offsets = struct.unpack_from("<15I", frame, 4)
        if 1 <= count <= 15 and first == 64 and all(offset == 0 for offset in offsets[count:]):
            return "RLE"
    return None


def _jpeg_kind(frame: bytes) -> str:
    kinds = {0xF7: "JPEG-LS", 0xC3: "JPEG lossless", 0xC0: "JPEG baseline", 0xC2: "JPEG extended"}
    for marker, _, _ in jpeg.segments(frame):
        if marker in jpeg.PROCESSES or marker == 0xF7:
            return kinds.get(marker, "JPEG extended")
        if marker == 0xDA:
            break
    raise DecodeError("corrupt", "a JPEG frame without a frame header")


def decode_frame(frame: bytes, codec: str, layout: ImageLayout, elements: Elements, max_pixels: int) -> DecodedFrame:
    """Check a frame for damage and decode it.

    Raises:
        DecodeError: the frame is damaged, larger than ``max_pixels``, or its codec is not installed.
    """
    if codec not in CODECS:
        raise DecodeError("unsupported", f"{codec} in DICOM; expected one of {', '.join(CODECS)}")
    if codec != "RLE":
        height, width = jpegxl.read_size(frame) if codec == "JPEG XL" else codestream.check_frame(frame)
        if layout.height and layout.width and (height, width) != (layout.height, layout.width):
            message = f"a frame of {width} x {height} pixels; the file declares {layout.width} x {layout.height}"
            raise DecodeError("corrupt", message)
        check_size(height, width, max_pixels)
    try:
        return CODECS[codec](frame, layout, elements)
    except (DecodeError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except ImportError as error:
        raise missing_codec(f"DICOM with {codec}", error) from error
    except BaseException as error:  # panics of decoders in Rust are not Exceptions
        raise DecodeError("corrupt", f"the {codec} data of the image are damaged") from error


def _decode_dct(frame: bytes, layout: ImageLayout, elements: Elements) -> DecodedFrame:
    """JPEG baseline, extended and progressive."""
    header = jpeg.read_header(frame)
    if header.bits != 8:
        return _decode_deep(frame, layout, elements)
    if len(header.components) == 1:
        return DecodedFrame(values=_decode_luma(frame, header, elements), bits=8)
    if len(header.components) != 3:
        raise DecodeError("unsupported", f"JPEG with {len(header.components)} colour components in DICOM")
    if not header.states_color:
        # Adobe's marker tells the decoder how to read the components: 0 for RGB, 1 for YCbCr
        transform = 0 if layout.photometric == "RGB" else 1
        frame = frame[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform]) + frame[2:]
    return DecodedFrame(values=_decode_luma(frame, header, elements), bits=8, space="LUMA")


def _decode_luma(frame: bytes, header: jpeg.Header, elements: Elements) -> np.ndarray:
    try:
        return jpeg.decode_gray(frame)
    except DecodeError as refused:
        if refused.reason != "unsupported":
            raise
    values, message = decode_unusual_sampling(frame, jpeg.read_header(frame))
    if message:
        elements.note(message)
    return values


def _decode_deep(frame: bytes, layout: ImageLayout, elements: Elements) -> DecodedFrame:
    """JPEG lossless of up to 16 bits, and JPEG extended of 12 bits."""
    header = jpeg.read_header(frame)
    samples = len(header.components)
    values = decode_deep_jpeg(frame)
    return _with_shape(values, header.height, header.width, samples, header.bits, _space(layout, samples))


def decode_deep_jpeg(frame: bytes) -> np.ndarray:
    """Decode lossless or 12-bit JPEG to uint8 or uint16 (H, W) or (H, W, 3).

    Gray lossless JPEG is decoded by libjpeg-turbo 3 in imagecodecs, if that is installed; all others by GDCM.

    Raises:
        DecodeError: a lossless JPEG is damaged. Check one of 12 bits with ``codestream.check_frame``.
    """
    header = jpeg.read_header(frame)
    if header.process == codestream.LOSSLESS:
        if len(header.components) == 1 and (values := _decode_lossless_gray(frame, header)) is not None:
            return values
        codestream.check_lossless_scan(frame)
    return _decode_gdcm(frame, header)


def _decode_lossless_gray(frame: bytes, header: jpeg.Header) -> np.ndarray | None:
    """Decode with imagecodecs and check that nothing is missing; None if it is not installed or cannot read this."""
    try:
        import imagecodecs

        values = imagecodecs.jpeg8_decode(frame)
    except Exception:  # not installed, or an error of its own: whether the file is damaged, the strict check decides
        return None
    if values.shape != (header.height, header.width) or values.dtype.kind != "u":
        return None
    if not jpeg_lossless.fits_scan(frame, values):
        codestream.check_lossless_scan(frame)
    return values


def _decode_gdcm(frame: bytes, header: jpeg.Header) -> np.ndarray:
    import gdcm

    if header.bits < 8:  # GDCM ends the process
        raise missing_codec(f"JPEG of {header.bits} bits", ImportError(name="imagecodecs"))
    samples = len(header.components)
    allocated = 8 if header.bits <= 8 else 16
    pixel_format = gdcm.PixelFormat(samples, allocated, header.bits, header.bits - 1, 0)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((header.width, header.height, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.MONOCHROME2 if samples == 1 else gdcm.PhotometricInterpretation.RGB
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14))
    image.SetPixelFormat(pixel_format)
    buffer = image.GetBuffer().encode("utf-8", errors="surrogateescape")
    count = header.height * header.width * samples
    if len(buffer) < count * allocated // 8:
        raise DecodeError("corrupt", "the JPEG data of the image are damaged")
    values = np.frombuffer(buffer, f"<u{allocated // 8}", count)
    return values.reshape((header.height, header.width, samples) if samples > 1 else (header.height, header.width))


def _decode_jpeg_ls(frame: bytes, layout: ImageLayout, elements: Elements) -> DecodedFrame:
    import jpeg_ls

    buffer, info = jpeg_ls.decode_pixel_data(frame)
    bits, samples = info["bits_per_sample"], info["components"]
    height, width = info["height"], info["width"]
    values = np.frombuffer(buffer, np.uint8 if bits <= 8 else "<u2")
    if samples > 1 and info["interleave_mode"] == 0:
        values = values.reshape(samples, height, width).transpose(1, 2, 0).ravel()
    return _with_shape(values, height, width, samples, bits, _space(layout, samples))


def _decode_jpeg2000(frame: bytes, layout: ImageLayout, elements: Elements) -> DecodedFrame:
    import openjpeg

    frame = frame[codestream.find_jpeg2000(frame) :]
    header = openjpeg.get_parameters(frame)
    values = openjpeg.decode(frame)
    samples = int(header["samples_per_pixel"])
    space = "RGB" if codestream.has_color_transform(frame) else _space(layout, samples)
    found = _with_shape(values, values.shape[0], values.shape[1], samples, int(header["precision"]), space)
    return DecodedFrame(values=found.values, bits=found.bits, signed=bool(header["is_signed"]), space=found.space)


def _decode_jpegxl(frame: bytes, layout: ImageLayout, elements: Elements) -> DecodedFrame:
    import imagecodecs

    header = jpegxl.read_header(frame)
    values = imagecodecs.jpegxl_decode(frame, numthreads=1)
    samples = 1 if values.ndim == 2 else values.shape[2]
    if values.dtype.kind != "u":
        raise DecodeError("unsupported", f"JPEG XL with values of type {values.dtype}; expected integers")
    bits = header.bits or 8 * values.dtype.itemsize
    return _with_shape(values, values.shape[0], values.shape[1], samples, bits, "RGB")


def _decode_rle(frame: bytes, layout: ImageLayout, elements: Elements) -> DecodedFrame:
    from rle.rle import decode_frame as decode_rle

    check_size(layout.height, layout.width, 2**62)
    segments = struct.unpack_from("<I", frame)[0]
    if segments % layout.samples:
        raise DecodeError("corrupt", f"{segments} RLE segments for {layout.samples} colour components")
    allocated = 8 * segments // layout.samples
    if allocated not in (8, 16, 32, 64):
        raise DecodeError("unsupported", f"RLE with {allocated} bits per value; expected 8, 16, 32 or 64")
    if allocated != layout.allocated:
        elements.note(f"{layout.allocated} bits allocated declared, the RLE image has {allocated}")
    try:
        buffer = decode_rle(frame, layout.height * layout.width, allocated, "<")
    except ValueError as error:
        raise DecodeError("corrupt", "the RLE data are damaged, or do not fit the declared size") from error
    values = np.frombuffer(buffer, f"<u{allocated // 8}")
    if layout.samples > 1:
        values = values.reshape(layout.samples, layout.height, layout.width).transpose(1, 2, 0).ravel()
    return _with_shape(
        values, layout.height, layout.width, layout.samples, allocated, layout.photometric.replace("_422", "")
    )


CODECS: dict[str, Callable[[bytes, ImageLayout, Elements], DecodedFrame]] = {
    "JPEG baseline": _decode_dct,
    "JPEG extended": _decode_dct,
    "JPEG lossless": _decode_deep,
    "JPEG-LS": _decode_jpeg_ls,
    "JPEG 2000": _decode_jpeg2000,
    "JPEG XL": _decode_jpegxl,
    "RLE": _decode_rle,
}


def _space(layout: ImageLayout, samples: int) -> str:
    """Colour space of a frame that does not state it: the data set's, if it has as many components."""
    if samples == 1:
        return "GRAY"
    return layout.photometric if layout.samples == samples and layout.photometric.startswith("YBR_FULL") else "RGB"


def _with_shape(values: np.ndarray, height: int, width: int, samples: int, bits: int, space: str) -> DecodedFrame:
    if samples not in (1, 3):
        raise DecodeError("unsupported", f"{samples} colour components in DICOM; expected 1 or 3")
    values = values.reshape((height, width) if samples == 1 else (height, width, samples))
    return DecodedFrame(values=values, bits=bits, space="GRAY" if samples == 1 else space.replace("_422", ""))
