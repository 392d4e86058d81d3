"""Synthetic sample images of every format, shared by the image tests."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cxrflow.images import DECODERS, Recipe, decode_image

LIBRARY_WORDS = re.compile(
    r"Error\b|Exception|Traceback|NoneType|object has no|invalid literal|unpack|argument|buffer|pydicom|Pillow|zlib"
    r"|libtiff|libjpeg|0x[0-9a-f]+ at|Corrupt JPEG|Premature|broken data|when reading|cannot identify|decompress",
)
"""Words of Python and of libraries, which mean nothing to the owner of a file."""

FAINT = np.add.outer(np.arange(120), np.arange(160)).astype(np.uint16)  # 0 to 278
"""A faint picture: with one bright pixel, it takes 280 of 65536 levels."""
FAINT[0, 0] = 65535

every_decoder = pytest.mark.parametrize("decoder", sorted(DECODERS))


def decode(data: bytes, height: int, width: int, **options):
    return decode_image(data, Recipe(height, width, **options))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 40, width: int = 60) -> Image.Image:
    return Image.fromarray(np.add.outer(np.arange(height) * 2, np.arange(width)).astype(np.uint8))


def picture(height: int = 120, width: int = 160, seed: int = 0) -> Image.Image:
    """Draw smooth shapes with fine noise. Thanks to the noise, every stretch of the file affects pixels."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    smooth = 120 + 80 * np.sin(7 * rows) * np.cos(5 * columns)
    noise = np.random.default_rng(seed).normal(0, 12, (height, width))
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def tiff(values: np.ndarray, photometric: int = 1, order: str = "<", **more_tags: int) -> bytes:
    """Build an uncompressed gray TIFF of one strip with any dtype."""
    values = np.asarray(values)
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: values.shape[1],
        257: values.shape[0],
        258: values.dtype.itemsize * 8,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: values.shape[0],
        279: len(pixels),
        339: {"u": 1, "i": 2, "f": 3}[values.dtype.kind],
    }
    tags |= {int(name[1:]): value for name, value in more_tags.items()}
    # every value is a LONG, because a SHORT would occupy the first half of the value field
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8 + len(pixels))
    return header + pixels + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(samples, depth: int, color: int = 0, chunks: tuple = ()) -> bytes:
    """Build a PNG of one row. Pillow cannot write gray of 2 and 4 bits, or colour of 16 bits."""
    bits = "".join(f"{sample:0{depth}b}" for sample in samples)
    bits += "0" * (-len(bits) % 8)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    width = len(samples) // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    header = struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in parts)


class BitWriter:
    """Collects bits and stuffs a zero byte after 0xFF, as JPEG demands."""

    def __init__(self):
        self.bits = ""

    def write(self, value: int, length: int) -> None:
        self.bits += f"{value:0{length}b}" if length else ""

    def bytes(self) -> bytes:
        bits = self.bits + "1" * (-len(self.bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def flat_jpeg(sampling: tuple[int, int, int], levels: np.ndarray, restart: int = 0) -> bytes:
    """Encode a baseline YCbCr JPEG without AC coefficients: each 8x8 luma block has one of ``levels`` (rows, columns).

    Quantisation is 8, so a DC coefficient is the level minus 128. All chroma is neutral. The DC table has 12 codes of
    4 bits, the categories 0 to 11. The AC table has one code of 4 bits, the end of block.
    """
    rows, columns = levels.shape
    factors = [(value >> 4, value & 15) for value in sampling]
    wide, high = max(h for h, _ in factors), max(v for _, v in factors)
    assert factors[0] == (wide, high) and rows % high == 0 and columns % wide == 0
    head = b"\xff\xd8\xff\xdb\x00\x43\x00" + bytes([8] * 64)
    frame = b"".join(bytes([index + 1, value, 0]) for index, value in enumerate(sampling))
    head += b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, rows * 8, columns * 8, 3) + frame
    dc = bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12))
    ac = bytes([0, 0, 0, 1] + [0] * 12) + bytes([0])
    head += b"\xff\xc4" + struct.pack(">H", 3 + len(dc)) + b"\x00" + dc
    head += b"\xff\xc4" + struct.pack(">H", 3 + len(ac)) + b"\x10" + ac
    if restart:
        head += b"\xff\xdd\x00\x04" + struct.pack(">H", restart)
    head += b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00"
    scan, writer, last, count = b"", BitWriter(), 0, 0
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            if restart and count and count % restart == 0:
                scan += writer.bytes() + bytes([0xFF, 0xD0 + (count // restart - 1) % 8])
                writer, last = BitWriter(), 0
            for y in range(high):
                for x in range(wide):
                    value = int(levels[top + y, left + x]) - 128
                    difference, last = value - last, value
                    size = abs(difference).bit_length()
                    writer.write(size, 4)
                    writer.write(difference if difference > 0 else difference + 2**size - 1, size)
                    writer.write(0, 4)
            for horizontal, vertical in factors[1:]:
                for _ in range(horizontal * vertical):
                    writer.write(0, 8)
            count += 1
    return head + scan + writer.bytes() + b"\xff\xd9"
