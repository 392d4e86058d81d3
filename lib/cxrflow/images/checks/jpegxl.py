"""JPEG XL: read the size and the precision of a file before it is decoded (ISO/IEC 18181-1, annexes D and E).

The decoder refuses files that are cut. JPEG XL has no checksum, so overwritten values are detected only if decoding
fails, which it usually does.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxrflow.images.decode_result import DecodeError
from cxrflow.images.formats import JPEG_XL

CODESTREAM = JPEG_XL[1]
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width to height, by the code in the file; 0 means that the width is stored."""


@dataclass(frozen=True)
class Header:
    """What a JPEG XL file states before its image."""

    height: int
    """As stored, before the orientation."""
    width: int
    orientation: int
    """As in EXIF. The decoder applies it."""
    bits: int
    """Bits per integer sample; 0 if they are floats, or if the file has a preview or an animation."""


def read_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) as the decoder returns them. Raises DecodeError if the header is cut or damaged."""
    header = read_header(data)
    return (header.width, header.height) if header.orientation > 4 else (header.height, header.width)


def read_header(data: bytes) -> Header:
    """Parse the header. Raises DecodeError if it is cut or damaged."""
    bits = _Bits(_find_codestream(data)[2:])
    height, width = _read_size(bits)
    orientation, precision = 1, 8
    if not bits.read(1):  # not all defaults
        has_preview = False
        if bits.read(1):
            orientation = 1 + bits.read(3)
            if bits.read(1):
                _read_size(bits)
            has_preview = bool(bits.read(2))  # or an animation; the fields that follow are not parsed
        is_unknown = has_preview or bits.read(1)  # floats
        precision = 0 if is_unknown else bits.choose((8, 0), (10, 0), (12, 0), (1, 6))
    return Header(height, width, orientation, precision)


def _read_size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.read(1)

    def read_side() -> int:
        return 8 * (1 + bits.read(5)) if is_small else bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    height = read_side()
    ratio = bits.read(3)
    if ratio == 0:
        return height, read_side()
    across, down = RATIOS[ratio]
    return height, height * across // down


class _Bits:
    """Reads numbers from the lowest bit up."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data[:64], "little"), 8 * min(64, len(data))

    def read(self, count: int) -> int:
        """Read a number of ``count`` bits."""
        self._left -= count
        if self._left < 0:
            raise DecodeError("truncated", "the file ends in the JPEG XL header")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def choose(self, *variants: tuple[int, int]) -> int:
        """Read a number whose first two bits choose (offset, bits)."""
        offset, count = variants[self.read(2)]
        return offset + self.read(count)


def _find_codestream(data: bytes) -> bytes:
    """Return the beginning of the codestream, also inside the boxes of a container."""
    if data.startswith(CODESTREAM):
        return data[:80]
    position = 0
    while position + 8 <= len(data):
        length, kind, start = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8], 8
        if length == 1:
            length, start = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            begin = position + start + (4 if kind == b"jxlp" else 0)
            if data[begin : begin + 2] != CODESTREAM:
                break
            return data[begin : begin + 80]
        if length < 8:  # 0: the last box
            break
        position += length
    else:
        raise DecodeError("truncated", "the file ends before its JPEG XL image")
    raise DecodeError("corrupt", "a JPEG XL container without an image")
