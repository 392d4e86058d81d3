"""GIF: check that every block up to the trailer is complete. Pillow refuses a first frame whose codes end early.

GIF has no checksum: overwritten codes that still fill the frame are not detected.
"""

from __future__ import annotations

from cxrflow.images.decode_result import DecodeError


def check_structure(data: bytes) -> None:
    """Raise if the file ends before the trailer or has no frame."""
    if count_frames(data) == 0:
        raise DecodeError("truncated", "a GIF without a frame")


def count_frames(data: bytes) -> int:
    """Count the frames without decoding them. Raises DecodeError if the file ends early."""
    try:
        return sum(_blocks(data))
    except IndexError:
        raise DecodeError("truncated", "the file ends before the GIF trailer") from None


def _blocks(data: bytes):
    """Yield True for each frame and False for each extension."""
    position = 13 + _table_bytes(data[10])
    while (kind := data[position]) != 0x3B:
        if kind == 0x2C:
            position = _skip(data, position + 11 + _table_bytes(data[position + 9]))
        elif kind == 0x21:
            position = _skip(data, position + 2)
        else:
            raise DecodeError("corrupt", f"byte {position}: unknown GIF block {kind:#x}")
        yield kind == 0x2C


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip(data: bytes, position: int) -> int:
    """Return the end of a chain of sub-blocks. Each begins with its length; an empty one ends the chain."""
    while length := data[position]:
        position += 1 + length
    return position + 1
