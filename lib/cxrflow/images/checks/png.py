"""PNG: check the checksum of every chunk and of the image stream. Pillow skips those of the image data."""

from __future__ import annotations

import struct
import zlib

from cxrflow.images.decode_result import DecodeError

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel by colour type."""

PIECE = 1 << 16

# Adam7: (first row, row step, first column, column step) of the seven passes.
ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


def check_structure(data: bytes) -> None:
    """Raise unless all chunks up to IEND are complete, without gaps, with the right CRC. About 1 GB/s."""
    chunks = list(_chunks(data))
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise DecodeError("corrupt", "a PNG that does not begin with its header")
    if not any(name == b"IDAT" for name, _ in chunks):
        raise DecodeError("truncated", "no image data")


def _chunks(data: bytes):
    view, position, name = memoryview(data), 8, b""
    while name != b"IEND":
        if position + 12 > len(data):
            raise DecodeError("truncated", "the file ends before the IEND chunk")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise DecodeError("truncated", f"the file ends in chunk {name!r}")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DecodeError("corrupt", f"wrong checksum in chunk {name!r}")
        yield name, view[position + 8 : end - 4]
        position = end


def check_stream(data: bytes) -> None:
    """Raise unless the image data inflate to exactly the image's rows with the right Adler-32. Uses 1 MB of memory."""
    left, inflate = expected_bytes(data), zlib.decompressobj()
    for output in _inflated(inflate, data):
        left -= len(output)
        if left < 0:
            raise DecodeError("corrupt", "more image data than the image has rows")
    if left or not inflate.eof:
        raise DecodeError("truncated", f"the image data end {left} bytes early")


def _inflated(inflate, data: bytes):
    for name, content in _chunks(data):
        for start in range(0, len(content) if name == b"IDAT" else 0, PIECE):
            piece = content[start : start + PIECE]
            while piece and not inflate.eof:
                yield _inflate(inflate, piece)
                piece = inflate.unconsumed_tail
    while not inflate.eof and (output := _inflate(inflate, b"")):  # the rest of zlib's buffer
        yield output


def _inflate(inflate, piece) -> bytes:
    try:
        return inflate.decompress(piece, 16 * PIECE)
    except zlib.error:
        raise DecodeError("corrupt", "the compressed image data are damaged") from None


def expected_bytes(data: bytes) -> int:
    """Return the size of all rows, including one filter byte per row."""
    width, height, depth, color, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if color not in CHANNELS or depth not in (1, 2, 4, 8, 16) or interlace > 1:
        raise DecodeError("corrupt", f"colour type {color}, {depth} bits, interlace {interlace}")
    bits = depth * CHANNELS[color]
    if not interlace:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for row, row_step, column, column_step in ADAM7:
        rows, columns = -(-(height - row) // row_step), -(-(width - column) // column_step)
        if rows > 0 and columns > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
