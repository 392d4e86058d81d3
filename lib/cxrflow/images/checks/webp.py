"""WebP: check that the RIFF container is complete. libwebp refuses data that it cannot decode; there is no checksum."""

from __future__ import annotations

import struct

from cxrflow.images.decode_result import DecodeError


def check_structure(data: bytes) -> None:
    """Raise if the file or one of its chunks is shorter than declared."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise DecodeError("truncated", f"{len(data)} bytes of {end}")
    position, names = 12, set()
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, position)
        position += 8 + length
        names.add(name)
        if position > end:
            raise DecodeError("truncated", f"chunk {name!r} ends after the file")
        position += length & 1
    if not names & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise DecodeError("truncated", "no image data")
