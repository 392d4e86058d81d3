"""Read the first frame of the pixel data as stored values (PS3.3 C.7.6.3, PS3.5 8).

Only the bits that hold the value are kept: overlays, or anything else in the other bits, are masked out (PS3.5 8.1.1).
Where a compressed frame and the data set disagree on precision, sign or colour, the frame decides, because the frame's
own header had to be right for its encoder.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from cxrflow.images.checks import jpeg
from cxrflow.images.dcm import frame_codecs
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.file_parser import DicomFile
from cxrflow.images.dcm.image_layout import ImageLayout
from cxrflow.images.decode_result import DecodeError
from cxrflow.images.doubts import DOUBTS
from cxrflow.images.formats import check_size
from cxrflow.images.luma import luma_of

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
GE_PRIVATE = "1.2.840.113619.5.2"
"""Implicit little endian with big-endian pixels."""
NATIVE = {
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    GE_PRIVATE,
    "",
}
"""Transfer syntaxes of uncompressed pixels."""
NAMES = {
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.110": "JPEG XL",
    "1.2.840.10008.1.2.4.111": "JPEG XL",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.201": "JPEG 2000",
    "1.2.840.10008.1.2.4.202": "JPEG 2000",
    "1.2.840.10008.1.2.4.203": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}
"""Names of compressed transfer syntaxes, as ``frame_codecs.find_codec`` calls their frames."""
ALLOCATED = (1, 8, 12, 16, 32, 64)
OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
VIDEO = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))


@dataclass(frozen=True, kw_only=True)
class StoredPixels:
    """Stored values of one frame."""

    values: np.ndarray
    """(H, W) gray or palette indices, or (H, W, 3)."""
    bits: int
    """Bits that hold a value."""
    allocated: int
    """Bits that the file reserves for a value."""
    signed: bool
    space: str
    """Photometric interpretation of the values, such as MONOCHROME2, RGB or YBR_FULL."""

    def wrap(self, value: int) -> int:
        """Reduce a number from the header to the bits of the value, as the pixels were."""
        return int(_sign_extend(np.array([value & (2**self.bits - 1)], np.int64), self.bits, self.signed)[0])


def read_pixels(file: DicomFile, elements: Elements, max_pixels: int) -> tuple[StoredPixels, int]:
    """Decode the first frame. Returns it and the number of frames.

    Raises:
        DecodeError: no pixel data, or pixel data that are damaged, cut or of an unsupported kind.
    """
    keyword = next((name for name in PIXEL_KEYWORDS if elements.has(name)), None)
    if keyword is None:
        raise _no_pixels(file, elements)
    content = file.dataset.get_item(keyword)
    data = content.value if isinstance(content.value, bytes) else elements.raw_bytes(keyword)
    if file.syntax in VIDEO:
        raise DecodeError("unsupported", "video (MPEG or HEVC); expected a still image")
    encapsulated = data[:4] == ITEM and (file.syntax not in NATIVE or _is_undefined(content) or file.syntax == "")
    if encapsulated:
        return _read_compressed(file, elements, split_fragments(data), max_pixels)
    layout = read_layout(elements, keyword, len(data))
    if layout.height < 1 or layout.width < 1:
        raise DecodeError("corrupt", "the data set does not state the height and width of its image")
    check_size(layout.height, layout.width, max_pixels)
    if file.syntax not in NATIVE:
        codec = frame_codecs.find_codec(data)
        if codec and len(data) < layout.frame_bytes:
            elements.note("compressed pixels that are not encapsulated")
            return _read_compressed(file, elements, [b"", data], max_pixels)
        if abs(len(data) - layout.frame_bytes * layout.frames) > 1:
            name = NAMES.get(file.syntax, "a compressed transfer syntax")
            raise DecodeError(
                "corrupt",
                f"the file header states {name}, but the pixel data are not; {len(data)} bytes do not fit "
                f"{layout.width} x {layout.height} uncompressed pixels ({layout.frame_bytes} bytes) either",
            )
        elements.note(f"uncompressed pixels, although the file header states {NAMES.get(file.syntax, 'compression')}")
    return _read_native(file, elements, keyword, data, layout), layout.frames


def _no_pixels(file: DicomFile, elements: Elements) -> DecodeError:
    if file.ends_early:
        return DecodeError("truncated", "the file ends before its pixel data do")
    modality = elements.text("Modality")[:16]
    kind = {"SR": "a structured report", "PR": "a presentation state", "KO": "a key object selection"}.get(modality)
    if kind is None:
        from pydicom.uid import UID

        kind = UID(elements.text("SOPClassUID")).name or "a DICOM object"
    return DecodeError("no_pixel_data", f"{kind}: it contains no image")


def _is_undefined(element) -> bool:
    length = getattr(element, "length", None)
    return length == 0xFFFFFFFF or bool(getattr(element, "is_undefined_length", False))


def read_layout(elements: Elements, keyword: str = "PixelData", size: int = 0) -> ImageLayout:
    """Read the Image Pixel module (C.7.6.3), with a note for each value that had to be assumed."""
    photometric = elements.text("PhotometricInterpretation").upper().replace(" ", "_")
    photometric = "PALETTE COLOR" if photometric == "PALETTE_COLOR" else photometric
    if photometric.startswith("MONOCHROME"):
        photometric = "MONOCHROME1" if photometric.endswith("1") else "MONOCHROME2"
    samples = elements.integer("SamplesPerPixel") or 0
    if samples not in (1, 3, 4):
        samples = 3 if photometric.startswith(("RGB", "YBR")) else 1
    if not photometric:
        photometric = "MONOCHROME2" if samples == 1 else "RGB"
        elements.note(f"no photometric interpretation, {photometric} assumed")
    height, width = elements.integer("Rows") or 0, elements.integer("Columns") or 0
    frames = max(1, elements.integer("NumberOfFrames") or 1)
    floats = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword)
    allocated = (
        floats or elements.integer("BitsAllocated") or _guess_allocated(elements, size, height * width * samples)
    )
    bits = floats or elements.integer("BitsStored") or allocated
    if not 1 <= bits <= allocated:
        elements.note(f"bits stored: expected 1 to {allocated}, got {bits}; {allocated} assumed")
        bits = allocated
    high_bit = elements.integer("HighBit")
    if floats or high_bit is None or not bits - 1 <= high_bit < allocated:
        if high_bit is not None and not floats:
            elements.note(f"high bit: expected {bits - 1} to {allocated - 1}, got {high_bit}; {bits - 1} assumed")
        high_bit = bits - 1
    return ImageLayout(
        height=height,
        width=width,
        samples=samples,
        allocated=allocated,
        bits=bits,
        high_bit=high_bit,
        signed=elements.integer("PixelRepresentation") == 1,
        planar=elements.integer("PlanarConfiguration") == 1,
        frames=frames,
        photometric=photometric,
    )


def _guess_allocated(elements: Elements, size: int, values: int) -> int:
    """Deduce missing Bits Allocated from Bits Stored, or from the size of one frame."""
    stored = elements.integer("BitsStored") or 0
    allocated = (8 if stored <= 8 else 16) if stored else (16 if values and size >= 2 * values else 8)
    elements.note(f"no bits allocated, {allocated} assumed")
    return allocated


# --- uncompressed ------------------------------------------------------------------------------------------------


def _read_native(file: DicomFile, elements: Elements, keyword: str, data: bytes, layout: ImageLayout) -> StoredPixels:
    if layout.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and len(data) >= layout.frame_bytes // 2 * 3:
        full = layout.photometric.replace("_422", "")
        if layout.frames == 1:  # as large as without subsampling, so it is not subsampled
            layout = ImageLayout(**{**vars(layout), "photometric": full})
    if layout.allocated not in ALLOCATED:
        raise DecodeError("unsupported", f"{layout.allocated} bits allocated; expected one of {ALLOCATED}")
    if len(data) < layout.frame_bytes or (file.ends_early and len(data) < layout.frame_bytes * layout.frames):
        expected = layout.frame_bytes * layout.frames
        raise DecodeError("truncated", f"the pixel data have {len(data)} bytes, expected {expected}")
    count = layout.height * layout.width * layout.values_per_pixel()
    order = "<" if file.little_endian and file.syntax != GE_PRIVATE else ">"
    words = str(getattr(file.dataset.get_item(keyword), "VR", "")) == "OW"
    if keyword != "PixelData":
        values = np.frombuffer(data, f"{order}f{layout.allocated // 8}", count)
        values = values.astype(values.dtype.newbyteorder("="))
        return _shaped(values, layout, elements, floats=True)
    if layout.allocated == 1:
        values = np.unpackbits(_bytes(data, order, words), count=count, bitorder="little")
    elif layout.allocated == 8:
        values = _bytes(data, order, words)[:count]
    elif layout.allocated in (16, 32, 64):
        values = np.frombuffer(data, f"{order}u{layout.allocated // 8}", count)
        values = values.astype(f"u{layout.allocated // 8}", copy=False)
    else:
        values = _unpack_12(np.frombuffer(data, np.uint8), count)
    return _shaped(values, layout, elements)


def _bytes(data: bytes, order: str, words: bool) -> np.ndarray:
    """Return single bytes. In big-endian files with VR OW, bytes are swapped in pairs (PS3.5 8.1.1)."""
    if order == ">" and words and len(data) % 2 == 0:
        return np.frombuffer(data, ">u2").astype("<u2").view(np.uint8)
    return np.frombuffer(data, np.uint8)


def _unpack_12(data: np.ndarray, count: int) -> np.ndarray:
    """Unpack 12-bit values without gaps, lowest bits first."""
    triples = np.concatenate([data, np.zeros(-len(data) % 3, np.uint8)]).reshape(-1, 3).astype(np.uint16)
    pairs = np.stack([triples[:, 0] | (triples[:, 1] & 15) << 8, triples[:, 1] >> 4 | triples[:, 2] << 4], axis=1)
    return pairs.ravel()[:count]


def _shaped(values: np.ndarray, layout: ImageLayout, elements: Elements, floats: bool = False) -> StoredPixels:
    height, width, samples = layout.height, layout.width, layout.samples
    if samples == 1:
        values = values.reshape(height, width)
    elif layout.values_per_pixel() == 2:  # Y1 Y2 Cb Cr for each pair of pixels
        groups = values.reshape(height, -1, 4)
        chroma = np.repeat(groups[:, :, 2:], 2, axis=1)
        values = np.dstack([groups[:, :, :2].reshape(height, -1), chroma])[:, :width]
    elif layout.planar:
        values = values.reshape(samples, height, width).transpose(1, 2, 0)
    else:
        values = values.reshape(height, width, samples)
    if not floats:
        _note_unused_bits(values, layout, elements)
        values = mask_values(values, layout.bits, layout.high_bit, layout.signed)
    return StoredPixels(
        values=values,
        bits=layout.bits,
        allocated=layout.allocated,
        signed=layout.signed and not floats,
        space=layout.photometric.replace("_422", ""),
    )


def _note_unused_bits(values: np.ndarray, layout: ImageLayout, elements: Elements) -> None:
    """Note that bits above the value are set, unless an overlay or the sign accounts for them."""
    if layout.high_bit == layout.allocated - 1 or any((group, 0x0102) in elements.dataset for group in OVERLAY_GROUPS):
        return
    if not has_bits_above(values, layout.high_bit):
        return
    above = values >> values.dtype.type(layout.high_bit + 1)
    if layout.signed and np.isin(above, (0, 2 ** (layout.allocated - 1 - layout.high_bit) - 1)).all():
        return
    elements.note(f"{DOUBTS['extra_bits'].beginning}{layout.bits} bits stored are set, masked")


def has_bits_above(values: np.ndarray, high_bit: int) -> bool:
    """Whether any value, unsigned, has a bit above ``high_bit``. No temporary array, so it takes a tenth of a mask."""
    return bool(values.size) and int(values.max()) >> (high_bit + 1) > 0


def mask_values(values: np.ndarray, bits: int, high_bit: int, signed: bool) -> np.ndarray:
    """Keep the ``bits`` bits below and including ``high_bit``, shifted to the lowest bit, and extend the sign."""
    container = values.dtype.itemsize * 8
    if high_bit != bits - 1 or (bits < container and has_bits_above(values, high_bit)):
        kind = values.dtype.type
        values = (values >> kind(high_bit + 1 - bits)) & kind(2**bits - 1)
    return _sign_extend(values, bits, signed)


def _sign_extend(values: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    if not signed:
        return values
    container = values.dtype.itemsize * 8
    shift = container - bits
    values = values.view(f"i{values.dtype.itemsize}")
    return (values << shift) >> shift if shift else values


# --- compressed --------------------------------------------------------------------------------------------------


def split_fragments(data: bytes) -> list[bytes]:
    """Return the items of encapsulated pixel data (PS3.5 A.4); the first is the Basic Offset Table."""
    items, position = [], 0
    while position + 8 <= len(data) and data[position : position + 4] == ITEM:
        length = struct.unpack_from("<I", data, position + 4)[0]
        items.append(data[position + 8 : position + 8 + length])
        position += 8 + length
    if position > len(data):
        raise DecodeError("truncated", "the file ends before its compressed image does")
    return items


def first_frame(items: list[bytes], frames: int) -> bytes:
    """Join the fragments of the first frame."""
    fragments = items[1:]
    if not fragments:
        raise DecodeError("truncated", "the compressed image has no data")
    if frames == 1:
        return b"".join(fragments)
    if len(fragments) == frames:
        return fragments[0]
    starts = [index for index, fragment in enumerate(fragments) if frame_codecs.find_codec(fragment)]
    if len(starts) == frames and starts[0] == 0:
        return b"".join(fragments[: starts[1]])
    if len(items[0]) >= 8:  # the table has the offset of each frame's first item
        second = struct.unpack_from("<I", items[0], 4)[0]
        offset = 0
        for index, fragment in enumerate(fragments):
            if offset == second and index:
                return b"".join(fragments[:index])
            offset += 8 + len(fragment)
    raise DecodeError("corrupt", f"{len(fragments)} fragments of compressed data do not divide into {frames} frames")


def _read_compressed(
    file: DicomFile, elements: Elements, items: list[bytes], max_pixels: int
) -> tuple[StoredPixels, int]:
    if file.ends_early:
        raise DecodeError("truncated", "the file ends before its compressed image does")
    layout = read_layout(elements)
    frame, repaired = jpeg.repair_headers(first_frame(items, layout.frames))
    if repaired:
        elements.note(repaired)
    codec = frame_codecs.find_codec(frame)
    stated = NAMES.get(file.syntax)
    if codec is None:
        if layout.frame_bytes and 0 <= len(frame) - layout.frame_bytes <= 1:
            elements.note("uncompressed pixels in a compressed frame")
            check_size(layout.height, layout.width, max_pixels)
            frames, single = layout.frames, ImageLayout(**{**vars(layout), "frames": 1})
            return _read_native(file, elements, "PixelData", frame, single), frames
        name = stated or "compressed"
        raise DecodeError("corrupt", f"the pixel data are said to be {name}, but begin with {frame[:4].hex(' ')}")
    if codec != stated and not (
        codec.startswith("JPEG ") and (stated or "").startswith("JPEG ") and codec in DCT == stated in DCT
    ):
        elements.note(f"pixels are {codec}, although the file header states {stated or 'no compression'}")
    check_size(max(1, layout.height), max(1, layout.width), max_pixels)
    decoded = frame_codecs.decode_frame(frame, codec, layout, elements, max_pixels)
    return _reconcile(decoded, layout, elements), layout.frames


DCT = ("JPEG baseline", "JPEG extended")


def _reconcile(decoded: frame_codecs.DecodedFrame, layout: ImageLayout, elements: Elements) -> StoredPixels:
    """Combine a decoded frame with the data set: the frame's precision and colour, the data set's sign and mask."""
    values, bits, allocated = decoded.values, decoded.bits, max(layout.allocated, decoded.bits)
    if layout.photometric.startswith("MONOCHROME") and (decoded.space == "LUMA" or values.ndim == 3):
        elements.note("gray declared, but the image is in colour; converted to luma")
        if values.ndim == 3:
            values = luma_of(values).astype(values.dtype) if decoded.space == "RGB" else values[..., 0]
        return StoredPixels(values=values, bits=bits, allocated=bits, signed=False, space=layout.photometric)
    if decoded.space == "LUMA" or values.ndim == 3:
        if values.ndim == 3 and layout.bits < bits == layout.allocated:
            values, bits = mask_values(values, layout.bits, layout.high_bit, False), layout.bits
        return StoredPixels(values=values, bits=bits, allocated=allocated, signed=False, space=decoded.space)
    space = layout.photometric
    if layout.samples != 1:
        elements.note("colour declared, but the image is gray")
        space = "MONOCHROME2"
    if decoded.signed:
        if not layout.signed:
            elements.note("values have a sign, although the data set declares none")
        return StoredPixels(values=values, bits=bits, allocated=allocated, signed=True, space=space)
    if bits == layout.allocated:  # the whole container was encoded, so bits above those stored may be anything
        _note_unused_bits(values, layout, elements)
        values = mask_values(values, layout.bits, layout.high_bit, layout.signed)
        return StoredPixels(values=values, bits=layout.bits, allocated=allocated, signed=layout.signed, space=space)
    if bits != layout.bits:
        elements.note(f"{layout.bits} bits declared, the image has {bits}")
    values = mask_values(values, bits, bits - 1, layout.signed)
    return StoredPixels(values=values, bits=bits, allocated=allocated, signed=layout.signed, space=space)
