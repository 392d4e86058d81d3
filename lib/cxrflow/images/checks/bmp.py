"""BMP: check the declared file size and that no row is missing. BMP has no checksum."""

from __future__ import annotations

import struct

from cxrflow.images.decode_result import DecodeError


def check_structure(data: bytes) -> None:
    """Raise if the file is shorter than declared or than its uncompressed rows."""
    if len(data) < 26:
        raise DecodeError("truncated", "the file ends in the BMP header")
    declared, offset, header = struct.unpack_from("<I4xII", data, 2)
    if header == 12:
        width, height, bits = struct.unpack_from("<HH2xH", data, 18)
        compression = 0
    else:
        if len(data) < 34:
            raise DecodeError("truncated", "the file ends in the BMP header")
        width, height, bits, compression = struct.unpack_from("<ii2xHI", data, 18)
    needed = offset + abs(height) * ((abs(width) * bits + 31) // 32 * 4) if compression in (0, 3, 6) else 0
    if max(needed, declared) > len(data):
        raise DecodeError("truncated", f"{len(data)} bytes of {max(needed, declared)}")
