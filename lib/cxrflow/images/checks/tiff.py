"""TIFF: check that the strips lie inside the file, and their content as far as the compression allows it.

Deflate has a checksum, and embedded JPEG is decoded strictly. LZW, PackBits and uncompressed strips have no checksum,
so overwritten values are not detected there.
"""

from __future__ import annotations

import struct
import zlib

from PIL.TiffImagePlugin import COMPRESSION_INFO

from cxrflow.images.checks import jpeg
from cxrflow.images.decode_result import DecodeError

OFFSETS, BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS = 273, 279, 324, 325
COMPRESSION, JPEG_TABLES = 259, 347
LONG = 4


def check_structure(data: bytes) -> None:
    """Raise if a page's directory leaves the file, or if Pillow does not support the first page's compression."""
    directory = _directories(data)[0]
    compression = directory.get(COMPRESSION, 1)
    if compression not in COMPRESSION_INFO:
        raise DecodeError("unsupported", f"TIFF compression {compression}; expected one of {sorted(COMPRESSION_INFO)}")


def count_pages(data: bytes) -> int:
    """Count the pages without decoding them."""
    return len(_directories(data))


def _directories(data: bytes) -> list[dict[int, int]]:
    """Return {tag: value} of each page, for single SHORT or LONG values, in classic TIFF and BigTIFF."""
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    pointer, count, entry, value = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    pages, at = {}, 8 if big else 4
    try:
        while offset := struct.unpack_from(order + pointer, data, at)[0]:
            if offset in pages:
                raise DecodeError("corrupt", "the chain of TIFF pages is a cycle")
            entries = struct.unpack_from(order + count, data, offset)[0]
            first = offset + struct.calcsize(count)
            at = first + entry * entries
            struct.unpack_from(order + pointer, data, at)  # raises if the directory is cut
            pages[offset] = dict(_entry(data, order, offset, offset + value) for offset in range(first, at, entry))
    except struct.error:
        raise DecodeError("truncated", "the file ends before its TIFF directories do") from None
    if not pages:
        raise DecodeError("corrupt", "a TIFF without a page")
    return list(pages.values())


def _entry(data: bytes, order: str, offset: int, value: int) -> tuple[int, int]:
    tag, kind = struct.unpack_from(order + "HH", data, offset)
    return tag, struct.unpack_from(order + ("I" if kind == LONG else "H"), data, value)[0]


def check_strips(data: bytes, tags) -> None:
    """Raise if a strip or tile of the page with these tags leaves the file or is damaged."""
    for offset, count in _strips(tags):
        if offset + count > len(data):
            raise DecodeError("truncated", f"a strip ends at byte {offset + count} of {len(data)}")
        if tags.get(COMPRESSION) in (8, 32946):
            _check_deflate(data[offset : offset + count])
        elif tags.get(COMPRESSION) == 7:
            _check_jpeg(tags.get(JPEG_TABLES, b""), data[offset : offset + count])


def _strips(tags) -> list[tuple[int, int]]:
    for offsets, counts in ((OFFSETS, BYTE_COUNTS), (TILE_OFFSETS, TILE_BYTE_COUNTS)):
        if offsets in tags:
            starts, lengths = _as_tuple(tags[offsets]), _as_tuple(tags.get(counts, ()))
            if len(starts) != len(lengths):
                raise DecodeError("corrupt", f"{len(starts)} strips with {len(lengths)} lengths")
            return list(zip(starts, lengths, strict=True))
    raise DecodeError("truncated", "no strips of image data")


def _as_tuple(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _check_deflate(strip: bytes) -> None:
    inflate = zlib.decompressobj()
    try:
        while strip and not inflate.eof:
            inflate.decompress(strip, 1 << 20)
            strip = inflate.unconsumed_tail
    except zlib.error:
        raise DecodeError("corrupt", "the compressed data of a strip are damaged") from None
    if not inflate.eof:
        raise DecodeError("truncated", "a strip's deflate stream ends early")


def _check_jpeg(tables: bytes, strip: bytes) -> None:
    stream = tables[:-2] + strip[2:] if tables else strip
    jpeg.check_header(jpeg.read_header(stream), stream)
    jpeg.check_scan_data(stream)
