"""Compressed frames inside DICOM: whole, and of the size that the data set declares.

Called before the decoders, some of which fill up what is missing, and some of which trust the frame's own size.
JPEG with 8 bits and lossless JPEG are also decoded strictly. JPEG 2000 and JPEG-LS have no checksum: values
overwritten inside them are told only where their decoders stumble, JPEG-LS nearly always, JPEG 2000 hardly ever.
"""

from __future__ import annotations

import re
import struct

from cxrflow.images.checks import jpeg
from cxrflow.images.decode_result import DecodeError

LOSSLESS = 0xC3
JPEG_LS = re.compile(rb"\xff[\x80-\xfe]")  # JPEG-LS stuffs bits: after 0xFF comes a byte below 0x80


def check_frame(frame: bytes, height: int, width: int) -> None:
    """Raise if the frame is cut or declares another size. RLE frames have no header to check."""
    if frame.startswith(b"\xff\xd8"):
        found = _check_jpeg(frame)
    elif (start := frame.find(b"\xff\x4f\xff\x51", 0, 1024)) >= 0:
        found = _check_jpeg2000(frame[start:])
    else:
        raise DecodeError("corrupt", f"a compressed frame that begins with {frame[:4]!r}")
    if found != (height, width):
        raise DecodeError("corrupt", f"a frame of {found[1]} x {found[0]} pixels; the file declares {width} x {height}")


def _check_jpeg(frame: bytes) -> tuple[int, int]:
    size = None
    for marker, start, _ in jpeg.segments(frame, pattern=JPEG_LS if b"\xff\xf7" in frame[:4096] else jpeg.MARKER):
        if marker in jpeg.PROCESSES or marker == 0xF7:
            bits, *size = struct.unpack_from(">BHH", frame, start)
            if marker in jpeg.SUPPORTED and bits == 8:
                jpeg.check_header(jpeg.read_header(frame), frame)
                jpeg.check_scan_data(frame)
            elif marker == LOSSLESS:
                # the codes of the scan do not depend on the depth, and the strict decoder at hand takes 8 bits alone
                jpeg.check_scan_data(frame[:start] + b"\x08" + frame[start + 1 :], least=size)
    if size is None:
        raise DecodeError("corrupt", "a JPEG frame without a frame header")
    return tuple(size)


def _check_jpeg2000(stream: bytes) -> tuple[int, int]:
    right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)
    position = 2
    while (marker := stream[position : position + 2]) != b"\xff\xd9":
        if marker == b"\xff\x90":  # a tile part says its own length; 0 means up to the end marker
            length = int.from_bytes(stream[position + 6 : position + 10], "big")
            position = position + length if length else stream.rfind(b"\xff\xd9")
        elif len(marker) == 2 and marker[0] == 0xFF and position + 4 <= len(stream):
            position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        else:
            position = -1
        if position < 0 or position + 2 > len(stream):
            raise DecodeError("truncated", "a JPEG 2000 frame that ends early")
    return bottom - top, right - left
