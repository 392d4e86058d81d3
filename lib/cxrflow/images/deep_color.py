"""Colour and alpha of 16 bits per sample in PNG and TIFF, which Pillow cuts to the upper 8 bits.

Pillow can take either byte of each sample, so an image is loaded twice: once for the upper and once for the lower
bytes. The range of the values follows ``cxrflow.images.bit_depth``, as for gray: 12-bit values stored in 16 bits would
be nearly black otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cxrflow.images.bit_depth import infer_range
from cxrflow.images.decode_result import DecodeError
from cxrflow.images.luma import luma_like_pillow

PLANAR = 284
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def is_deep_color(image: Image.Image, bits: int) -> bool:
    """Whether Pillow would cut this image to 8 bits: several channels of 16 bits each."""
    return bits == 16 and image.format in ("PNG", "TIFF") and image.mode in ("RGB", "RGBA", "LA", "CMYK")


@dataclass(frozen=True)
class DeepLuma:
    """Luma of a deep image."""

    pixels: np.ndarray
    """uint16 (H, W), composed on black."""
    value_range: tuple[float, float]
    """The values of black and white."""
    note: str
    stored: np.ndarray | None
    """Luma before the composition, if the image has an alpha channel: int64 (H, W)."""


def read_luma(open_image: Callable[[], Image.Image]) -> DeepLuma:
    """Load and convert to luma. ``open_image`` opens the same image again; its pixels must not be loaded."""
    image = open_image()
    key = image.info.get("transparency")
    premultiplied = any("a;16" in str(tile) for tile in image.tile)
    channels = _read_channels(open_image, premultiplied)
    color = channels[..., :1] if channels.shape[2] == 2 else channels[..., :3]
    white, note = _white(color if image.mode != "CMYK" else channels)
    if image.mode == "CMYK":
        light = white - channels.astype(np.int64)
        color = light[..., :3] * light[..., 3:] // int(white)
    luma = color[..., 0].astype(np.int64) if color.shape[2] == 1 else luma_like_pillow(color)
    stored = None
    if isinstance(key, tuple):
        luma[(color == key).all(axis=2)] = 0
    elif image.mode in ("LA", "RGBA") and not premultiplied:
        alpha = channels[..., -1].astype(np.int64)
        opaque = int(_white(alpha)[0])
        stored, luma = luma, (luma * alpha + opaque // 2) // opaque
    return DeepLuma(np.minimum(luma, int(white)).astype(np.uint16), (0, white), note, stored)


def _white(values: np.ndarray) -> tuple[float, str]:
    (_, white), note = infer_range(0, values.max().item(), np.dtype(np.uint16))
    return white, note


def _read_channels(open_image: Callable[[], Image.Image], premultiplied: bool) -> np.ndarray:
    """Return uint16 (H, W, channels)."""
    image = open_image()
    if _is_gray_alpha(image):  # two samples are four bytes, which Pillow reads as the four channels of RGBA
        content = _load(image, "RGBA", lambda mode: "RGBA")
        order = "<u2" if getattr(image, "tag_v2", None) is not None and image.tag_v2.prefix == b"II" else ">u2"
        return np.ascontiguousarray(content).view(order).astype(np.uint16)
    _check_planes(image)
    order = "L" if getattr(image, "tag_v2", None) is not None and image.tag_v2.prefix == b"II" else "B"
    mode = "RGBX" if premultiplied or _has_padding(image) else image.mode

    def upper(raw: str) -> str:
        return f"{raw};16{order}" if len(raw) == 1 else raw.replace("RGBa", "RGBX")  # one letter: a plane of its own

    def lower(raw: str) -> str:
        raw = upper(raw)
        return raw[:-1] + OTHER_BYTE[raw[-1]]

    high, low = _load(image, mode, upper), _load(open_image(), mode, lower)
    channels = high.astype(np.uint16) << 8 | low
    return channels[..., :3] if mode == "RGBX" else channels


def _is_gray_alpha(image: Image.Image) -> bool:
    """Pillow opens such a PNG as RGBA, with a raw mode that cuts the values."""
    return image.mode == "LA" or any("LA;16" in str(tile) for tile in image.tile)


def _check_planes(image: Image.Image) -> None:
    """Refuse compressed planes: Pillow then ignores which byte it shall take."""
    separate = getattr(image, "tag_v2", {}).get(PLANAR) == 2
    if separate and any(tile.codec_name != "raw" for tile in image.tile):
        raise DecodeError("unsupported", "TIFF with 16-bit colour in separate compressed planes; expected interleaved")


def _has_padding(image: Image.Image) -> bool:
    return any("RGBX;16" in str(tile) for tile in image.tile)


def _load(image: Image.Image, mode: str, change: Callable[[str], str]) -> np.ndarray:
    """Load with another raw mode. PNG has it as the tiles' only argument, TIFF as the first of several."""
    tiles = []
    for tile in image.tile:
        args = (change(tile.args[0]), *tile.args[1:]) if isinstance(tile.args, tuple) else change(tile.args)
        tiles.append(tile._replace(args=args))
    image.tile = tiles
    image._mode = mode
    image.info.pop("transparency", None)
    return np.asarray(image)
