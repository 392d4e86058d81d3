"""Compressed frames inside DICOM: detect frames that are cut or damaged.

These checks run before decoding, because some decoders fill up missing data. JPEG of 8 bits and lossless JPEG are also
decoded strictly. JPEG 2000 and JPEG-LS have no checksum: overwritten values are detected only if the decoder fails,
which it nearly always does for JPEG-LS and hardly ever for JPEG 2000.
"""

from __future__ import annotations

import re
import struct

from cxrflow.images.checks import jpeg, jpeg_entropy
from cxrflow.images.decode_result import DecodeError

LOSSLESS, EXTENDED = 0xC3, 0xC1
JPEG_LS = re.compile(rb"\xff[\x80-\xfe]")  # JPEG-LS stuffs bits: after 0xFF comes a byte below 0x80
CODESTREAM, JP2_BOX = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "


def find_jpeg2000(frame: bytes) -> int | None:
    """Return where the JPEG 2000 codestream begins, also inside a JP2 file; None if there is none."""
    if frame.startswith(CODESTREAM):
        return 0
    if frame.startswith(JP2_BOX) and (start := frame.find(CODESTREAM, 0, 4096)) >= 0:
        return start
    return None


def check_frame(frame: bytes) -> tuple[int, int]:
    """Return the (height, width) that a frame states. Raises DecodeError if it is cut or damaged.

    The scan of a lossless JPEG is left to ``check_lossless_scan``, or to whoever verifies the decoded values.
    """
    if frame.startswith(b"\xff\xd8"):
        return _check_jpeg(frame)
    if (start := find_jpeg2000(frame)) is not None:
        return _check_jpeg2000(frame[start:])
    raise DecodeError("corrupt", f"a compressed frame that begins with {frame[:4].hex(' ')}")


def _check_jpeg(frame: bytes) -> tuple[int, int]:
    size = None
    for marker, start, _ in jpeg.segments(frame, pattern=JPEG_LS if b"\xff\xf7" in frame[:4096] else jpeg.MARKER):
        if marker in jpeg.PROCESSES or marker == 0xF7:
            bits, height, width = struct.unpack_from(">BHH", frame, start)
            size = height, width
            if marker in jpeg.SUPPORTED and bits == 8:
                jpeg.check_header(jpeg.read_header(frame), frame)
            elif marker == EXTENDED and bits == 12:
                jpeg_entropy.check_sequential_scan(frame, jpeg.read_header(frame))
    if size is None:
        raise DecodeError("corrupt", "a JPEG frame without a frame header")
    return size


def check_lossless_scan(frame: bytes) -> None:
    """Decode a lossless JPEG strictly and discard the values. Raises DecodeError if it is damaged."""
    for marker, start, _ in jpeg.segments(frame):
        if marker == LOSSLESS:
            # the codes do not depend on the precision, and the strict decoder supports only 8 bits
            color = "GRAY" if frame[start + 5] == 1 else "RGB"
            least = struct.unpack_from(">HH", frame, start + 1)
            jpeg.check_scan_data(frame[:start] + b"\x08" + frame[start + 1 :], color, least=least)
            return


def _check_jpeg2000(stream: bytes) -> tuple[int, int]:
    if len(stream) < 24:
        raise DecodeError("truncated", "a JPEG 2000 frame that ends early")
    right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)
    position = 2
    while (marker := stream[position : position + 2]) != b"\xff\xd9":
        if marker == b"\xff\x90":  # a tile part states its length; 0 means up to the end marker
            length = int.from_bytes(stream[position + 6 : position + 10], "big")
            position = position + length if length else stream.rfind(b"\xff\xd9")
        elif len(marker) == 2 and marker[0] == 0xFF and position + 4 <= len(stream):
            position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        else:
            position = -1
        if position < 0 or position + 2 > len(stream):
            raise DecodeError("truncated", "a JPEG 2000 frame that ends early")
    return bottom - top, right - left


def has_color_transform(stream: bytes) -> bool:
    """Whether a JPEG 2000 codestream uses a multiple component transformation, which decoders undo (to RGB)."""
    position = 2
    while position + 4 <= len(stream) and stream[position : position + 2] not in (b"\xff\x90", b"\xff\xd9"):
        if stream[position : position + 2] == b"\xff\x52":  # COD: the transformation follows progression and layers
            return stream[position + 8] == 1
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
    return False
