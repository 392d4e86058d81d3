"""Colour and alpha of 16 bits per sample follow the same rule as gray, in PNG and TIFF."""

import struct
import zlib

import numpy as np
import pytest

from cxrflow.images import DecodeError, Recipe, decode_image
from image_samples import chunk, every_decoder

H, W = 12, 20
VALUES = {bits: np.linspace(0, 2**bits - 1, H * W).reshape(H, W).astype(np.uint16) for bits in (8, 10, 12, 14, 16)}
CHANNELS = {"gray": 0, "gray alpha": 4, "RGB": 2, "RGBA": 6}


def samples(value: np.ndarray, kind: str, opaque: int = 65535) -> np.ndarray:
    channels = [value] * (3 if kind.startswith("RGB") else 1)
    if kind in ("gray alpha", "RGBA"):
        channels.append(np.full_like(value, opaque))
    return np.stack(channels, axis=-1)


def png(content: np.ndarray, color: int, interlaced: bool = False, chunks: bytes = b"") -> bytes:
    """Write a PNG of 16 bits per sample without filters."""
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    images = [content[r::rs, c::cs] for r, rs, c, cs in passes] if interlaced else [content]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for image in images for row in image if row.size)
    header = struct.pack(">IIBBBBB", content.shape[1], content.shape[0], 16, color, 0, 0, int(interlaced))
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(content: np.ndarray, order: str = "<", planar: int = 1, extra: int = 2, compression: int = 1) -> bytes:
    """Write a TIFF of 16 bits per sample in one strip per plane."""
    height, width, count = content.shape
    planes = [content] if planar == 1 else [content[..., index] for index in range(count)]
    strips = [plane.astype(order + "u2").tobytes() for plane in planes]
    if compression == 8:
        strips = [zlib.compress(strip) for strip in strips]
    tags = {256: [width], 257: [height], 258: [16] * count, 259: [compression], 262: [2 if count > 2 else 1]}
    tags |= {277: [count], 278: [height], 284: [planar], 339: [1] * count}
    if count in (2, 4):
        tags[338] = [extra]
    data = b"".join(strips)
    offsets = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    tags |= {273: offsets, 279: [len(strip) for strip in strips]}
    directory = 8 + len(data) + len(data) % 2
    outside = directory + 2 + 12 * len(tags) + 4
    entries, tail = b"", b""
    for tag, numbers in sorted(tags.items()):
        long = tag in (256, 257, 273, 278, 279)
        value = struct.pack(f"{order}{len(numbers)}{'I' if long else 'H'}", *numbers)
        if len(value) > 4:
            tail, value = tail + value, struct.pack(order + "I", outside + len(tail))
        entries += struct.pack(order + "HHI", tag, 4 if long else 3, len(numbers)) + value.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)
    return head + data + b"\0" * (len(data) % 2) + struct.pack(order + "H", len(tags)) + entries + bytes(4) + tail


def shown(data: bytes, decoder: str = "turbo") -> tuple[np.ndarray, str]:
    decoded = decode_image(data, Recipe(H, W, decoder=decoder))
    assert decoded.source_bits == 16
    return decoded.pixels.astype(int), decoded.note


@every_decoder
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("bits", VALUES)
def test_png_follows_the_rule_of_gray(bits, kind, interlaced, decoder):
    pixels, note = shown(png(samples(VALUES[bits], kind), CHANNELS[kind], interlaced), decoder)
    np.testing.assert_array_equal(pixels, VALUES[bits] >> (bits - 8))
    assert note == ("" if bits == 16 else f"values use {bits} of 16 bits")


@pytest.mark.parametrize(("planar", "compression"), [(1, 1), (1, 8), (2, 1)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["RGB", "RGBA"])
@pytest.mark.parametrize("bits", [12, 16])
def test_tiff_follows_the_rule_of_gray(bits, kind, order, planar, compression):
    pixels, note = shown(tiff(samples(VALUES[bits], kind), order, planar, compression=compression))
    np.testing.assert_array_equal(pixels, VALUES[bits] >> (bits - 8))
    assert note == ("" if bits == 16 else "values use 12 of 16 bits")


def test_compressed_planes_are_refused():
    with pytest.raises(DecodeError, match="separate compressed planes") as refused:
        shown(tiff(samples(VALUES[12], "RGB"), planar=2, compression=8))
    assert refused.value.reason == "unsupported"


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_gray_with_alpha(order):
    pixels, note = shown(tiff(samples(VALUES[12], "gray alpha"), order))
    np.testing.assert_array_equal(pixels, VALUES[12] >> 4)
    assert note == "values use 12 of 16 bits"


@pytest.mark.parametrize("opaque", [4095, 65535])
def test_alpha_is_composed_on_black(opaque):
    half = samples(VALUES[12], "RGBA", opaque)
    half[:, : W // 2, 3] = opaque // 2
    pixels, _ = shown(png(half, 6))
    np.testing.assert_allclose(pixels[:, : W // 2], VALUES[12][:, : W // 2] / 4095 * 127.5, atol=1)
    np.testing.assert_array_equal(pixels[:, W // 2 :], VALUES[12][:, W // 2 :] >> 4)


def test_premultiplied_alpha_is_on_black_already():
    content = samples(VALUES[12], "RGBA")
    content[..., 3] = 65535 // 3
    pixels, _ = shown(tiff(content, extra=1))
    np.testing.assert_array_equal(pixels, VALUES[12] >> 4)


def test_a_transparent_colour_is_black():
    content = samples(VALUES[16], "RGB")
    content[3] = 40000
    data = png(content, 2, chunks=chunk(b"tRNS", struct.pack(">3H", 40000, 40000, 40000)))
    pixels, _ = shown(data)
    assert (pixels[3] == 0).all() and (pixels[4] == VALUES[16][4] >> 8).all()


def test_luma_of_deep_colour():
    content = np.zeros((H, W, 3), np.uint16)
    content[:] = (3200, 1600, 800)  # 0.299 * 3200 + 0.587 * 1600 + 0.114 * 800 = 1987.2 of 4095
    content[0, 0] = 4095
    assert shown(png(content, 2))[0][5, 5] == 1987 >> 4
