"""Colour images in DICOM: palette, RGB and YBR to luma (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cxrflow.images.bit_depth import infer_range, scale
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.grayscale import bit_range
from cxrflow.images.dcm.lookup_tables import read_table
from cxrflow.images.dcm.pixel_data import StoredPixels
from cxrflow.images.decode_result import DecodeError
from cxrflow.images.render_checks import check_rendering


def to_luma(stored: StoredPixels, elements: Elements) -> np.ndarray:
    """Convert stored colours (H, W, 3), palette indices (H, W) or finished luma (H, W) to uint8 (H, W).

    Green or Y stand for the stored brightness in the checks of ``render_checks``. Indices of a palette have none.
    """
    if stored.space == "LUMA":
        return stored.values
    if stored.space == "PALETTE COLOR":
        return rgb_to_luma(_apply_palette(stored, elements))
    if stored.values.ndim != 3 or stored.values.shape[2] != 3 or not stored.space.startswith(("RGB", "YBR")):
        raise DecodeError("unsupported", f"photometric interpretation {stored.space[:20]!a}")
    white = _white(stored, elements)
    if stored.space in ("RGB", "YBR_ICT", "YBR_RCT"):
        luma, brightness = rgb_to_luma(scale(stored.values, 0, white)), stored.values[..., 1]
    else:
        luma = rgb_to_luma(_ybr_to_rgb(stored.values.astype(np.float64) * (255 / white), stored.space))
        brightness = stored.values[..., 0]
    if stored.bits > 8:
        for message in check_rendering(brightness, luma):
            elements.note(message)
    return luma


def rgb_to_luma(colors: np.ndarray) -> np.ndarray:
    """Convert uint8 RGB (H, W, 3) to uint8 luma (H, W)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(colors)).convert("L"))


def _white(stored: StoredPixels, elements: Elements) -> float:
    """The value of full brightness, by the same rule as for gray."""
    if stored.bits < stored.allocated or stored.bits <= 8:
        return 2**stored.bits - 1
    low, high = stored.values.min().item(), stored.values.max().item()
    if stored.bits > 16:
        return 2**stored.bits - 1
    (_, white), message = infer_range(low, high, np.dtype(np.uint16))
    if message:
        elements.note(message)
    return white


def _ybr_to_rgb(values: np.ndarray, space: str) -> np.ndarray:
    """Convert YBR_FULL or YBR_PARTIAL (PS3.3 C.7.6.3.1.2), float 0..255, to uint8 RGB."""
    luma: np.ndarray = values[..., 0]
    blue: np.ndarray = values[..., 1] - 128
    red: np.ndarray = values[..., 2] - 128
    if space.startswith("YBR_PARTIAL"):
        luma, blue, red = (luma - 16) * (255 / 219), blue * (255 / 224), red * (255 / 224)
    colors = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    return np.rint(np.clip(colors, 0, 255)).astype(np.uint8)


def _apply_palette(stored: StoredPixels, elements: Elements) -> np.ndarray:
    """Convert palette indices (H, W) to uint8 RGB (C.7.9)."""
    if elements.has("SegmentedRedPaletteColorLookupTableData"):
        return _apply_segmented_palette(stored, elements)
    inputs = bit_range(stored)
    names = ("Red", "Green", "Blue")
    tables = [read_table(elements, f"{name} palette", inputs, f"{name}PaletteColorLookupTable") for name in names]
    if any(table is None for table in tables):
        raise DecodeError("corrupt", "a palette image without a complete palette")
    # one range for the three tables: each alone may use fewer bits
    white = max(table.white for table in tables if table)
    channels = [scale(table.apply(stored.values), 0, white) for table in tables if table]
    return np.stack(channels, axis=-1)


def _apply_segmented_palette(stored: StoredPixels, elements: Elements) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    try:
        colors = apply_color_lut(stored.values, elements.dataset)
    except Exception as error:  # pydicom raises many types on damaged palettes
        raise DecodeError("corrupt", "the segmented palette is damaged") from error
    return scale(colors, 0, 255 if colors.dtype.itemsize == 1 else 65535)
