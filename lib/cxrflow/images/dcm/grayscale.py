"""DICOM's grayscale pipeline (PS3.3 C.11): stored values -> Modality LUT -> VOI LUT -> presentation -> uint8.

1. Pixel padding (PS3.3 C.7.5.1.1.2) takes part in no range and becomes black.
2. Modality LUT, or rescale slope and intercept (C.11.1).
3. The first usable VOI LUT, else the first usable window: LINEAR, LINEAR_EXACT or SIGMOID (C.11.2). Values outside a
   window become black or white; nothing else clips values. A table or window that leaves no contrast is not usable.
4. With neither: the range of the bits stored. If all allocated bits are stored, ``bit_depth.infer_range`` decides,
   because many files declare 16 bits for values of 12 and would be nearly black. Nothing is clipped.
5. MONOCHROME1, or the Presentation LUT Shape INVERSE, inverts the result once (C.7.6.3.1.2, C.11.6).

For integers of up to 16 bits each possible value is converted once and pixels are looked up, so the cost hardly depends
on the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxrflow.images.bit_depth import infer_range, scale
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.lookup_tables import LookupTable, read_table
from cxrflow.images.dcm.pixel_data import StoredPixels
from cxrflow.images.decode_result import DecodeError
from cxrflow.images.doubts import DOUBTS
from cxrflow.images.lookup import look_up
from cxrflow.images.render_checks import check_rendering, is_decreasing


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Window function LINEAR (C.11.2.1.2.1): values to 0..255, float. A window of width w covers w integers."""
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, 255.0)
    return np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255.0, 0, 255)


def linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Window function LINEAR_EXACT (C.11.2.1.3.2): values to 0..255, float."""
    return np.clip(((values - center) / width + 0.5) * 255.0, 0, 255)


def sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Window function SIGMOID (C.11.2.1.3.1): values to 0..255, float."""
    return 255.0 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))


WINDOW_FUNCTIONS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


@dataclass(frozen=True)
class Modality:
    """The modality transformation: a table, or slope and intercept."""

    table: LookupTable | None = None
    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Convert stored values to the device's units."""
        if self.table:
            return self.table.apply(values)
        return values if (self.slope, self.intercept) == (1, 0) else values * self.slope + self.intercept

    def output_range(self, stored: StoredPixels) -> tuple[float, float]:
        """Return the smallest and the largest output that the bits stored allow."""
        if self.table:
            return 0, self.table.white
        ends = [value * self.slope + self.intercept for value in bit_range(stored)]
        return min(ends), max(ends)


def render(stored: StoredPixels, elements: Elements) -> np.ndarray:
    """Convert stored gray values (H, W) to uint8 (H, W) as the data set wants them shown.

    What was left out or looks suspicious is noted in ``elements.notes``.
    """
    values = stored.values
    valid = _valid_pixels(stored, elements)
    in_use = values if valid is None else values[valid]
    low, high = in_use.min().item(), in_use.max().item()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DecodeError("corrupt", "NaN or infinite values, which have no gray level")
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        first = min(values.min().item(), 0)
        inputs = np.arange(first, values.max().item() + 1)
        table = _to_gray(inputs, low, high, stored, elements)
        shown = look_up(table, _count_from(values, first))
    else:
        shown = _to_gray(values, low, high, stored, elements)
    if valid is not None:
        shown = np.where(valid, shown, np.uint8(0))
    for message in check_rendering(values, shown, valid):
        elements.note(message)
    return shown


def _count_from(values: np.ndarray, first: int) -> np.ndarray:
    """Return ``values - first`` as unsigned integers of the same size; ``first`` is the smallest value, or 0."""
    unsigned = values.view(f"u{values.dtype.itemsize}")
    return unsigned - unsigned.dtype.type(first % 2 ** (8 * values.dtype.itemsize)) if first else unsigned


def _to_gray(values: np.ndarray, low: float, high: float, stored: StoredPixels, elements: Elements) -> np.ndarray:
    modality = _read_modality(stored, elements)
    selected = (values >= low) & (values <= high)
    grays = None
    for apply_voi, message in _voi_candidates(stored, modality, elements):
        candidate = apply_voi(modality.apply(values))
        if low == high or np.ptp(candidate[selected]) >= 1:
            grays = candidate
            if message:
                elements.note(message)
            break
        elements.note("window left out: it leaves no contrast")
    if grays is None:
        grays = _full_range(values, low, high, stored, modality, elements)
    result = np.rint(grays).astype(np.uint8)
    if low < high and is_decreasing(values[selected], result[selected]):
        elements.note(f"{DOUBTS['inverted'].beginning} by the file's own tables")
    return 255 - result if _is_inverted(stored.space, elements) else result


def _valid_pixels(stored: StoredPixels, elements: Elements) -> np.ndarray | None:
    """Return False for padding (C.7.5.1.1.2), or None if the image has none."""
    prefix = "FloatPixelPadding" if stored.values.dtype.kind == "f" else "PixelPadding"
    if stored.values.dtype.itemsize == 8 and stored.values.dtype.kind == "f":
        prefix = "DoubleFloatPixelPadding"
    value = elements.number(f"{prefix}Value")
    if value is None:
        return None
    limit = elements.number(f"{prefix}RangeLimit")
    ends = [value, value if limit is None else limit]
    if stored.values.dtype.kind in "iu":
        ends = [stored.wrap(round(end)) for end in ends]
    valid = (stored.values < min(ends)) | (stored.values > max(ends))
    if valid.all():
        return None
    if not valid.any():
        elements.note("pixel padding left out: it covers the whole image")
        return None
    return valid


def _read_modality(stored: StoredPixels, elements: Elements) -> Modality:
    for item in elements.items("ModalityLUTSequence"):
        table = read_table(item, "Modality LUT", bit_range(stored))
        if table and np.ptp(table.entries) > 0:
            return Modality(table)
        if table:
            elements.note("Modality LUT left out: all its entries are equal")
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    if slope is not None and (slope == 0 or not np.isfinite(slope)):
        elements.note(f"RescaleSlope left out: {slope:g}")
        slope = None
    if intercept is not None and not np.isfinite(intercept):
        elements.note(f"RescaleIntercept left out: {intercept:g}")
        intercept = None
    return Modality(None, 1.0 if slope is None else slope, intercept or 0.0)


def _voi_candidates(stored: StoredPixels, modality: Modality, elements: Elements):
    """Yield (function to 0..255, note) of each usable VOI LUT, then of each usable window, in the file's order."""
    items = elements.items("VOILUTSequence")
    for index, item in enumerate(items):
        table = read_table(item, "VOI LUT", modality.output_range(stored))
        if table and np.ptp(table.entries) == 0:
            elements.note("VOI LUT left out: all its entries are equal")
        elif table:
            yield _table_function(table), _which(index, len(items), "VOI LUTs")
    yield from _windows(elements)


def _table_function(table: LookupTable) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: table.apply(values) * (255.0 / table.white)


def _windows(elements: Elements):
    centers, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    name = (elements.text("VOILUTFunction") or "LINEAR").upper()
    if (centers or widths) and name not in WINDOW_FUNCTIONS:
        elements.note(f"VOI LUT function {name[:20]!a} unknown, LINEAR used")
        name = "LINEAR"
    for index, (center, width) in enumerate(zip(centers, widths, strict=False)):
        smallest = 1 if name == "LINEAR" else np.nextafter(0, 1)
        if not np.isfinite(center) or not np.isfinite(width) or width < smallest:
            elements.note(f"window left out: center {center:g}, width {width:g}")
            continue
        yield _window_function(name, center, width), _which(index, min(len(centers), len(widths)), "windows")


def _window_function(name: str, center: float, width: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: WINDOW_FUNCTIONS[name](values, center, width)


def _which(index: int, count: int, things: str) -> str:
    if count < 2:
        return ""
    return f"first of {count} {things}" if index == 0 else f"number {index + 1} of {count} {things}"


def _full_range(
    values: np.ndarray, low: float, high: float, stored: StoredPixels, modality: Modality, elements: Elements
) -> np.ndarray:
    """No VOI transformation: black and white are the ends of the range of the stored values or of the Modality LUT."""
    if modality.table:
        return modality.table.apply(values) * (255.0 / modality.table.white)
    (black, white), message = stored_range(low, high, stored)
    if message:
        elements.note(message)
    if modality.slope < 0:
        black, white = white, black
    return scale(np.clip(values, min(black, white), max(black, white)), black, white)


def bit_range(stored: StoredPixels) -> tuple[float, float]:
    """Return the smallest and the largest value that the bits stored can represent."""
    if stored.values.dtype.kind == "f":
        return stored.values.min().item(), stored.values.max().item()
    if stored.signed:
        return -(2 ** (stored.bits - 1)), 2 ** (stored.bits - 1) - 1
    return 0, 2**stored.bits - 1


def stored_range(low: float, high: float, stored: StoredPixels) -> tuple[tuple[float, float], str]:
    """Return the stored values of black and white without any VOI, and a note if the pixels had to decide."""
    if stored.values.dtype.kind == "f" or stored.bits > 16:
        return (low, high), f"scaled from its own range, {low:g} to {high:g}"
    black, white = bit_range(stored)
    if stored.signed and low >= 0:
        black = 0
    if stored.bits < stored.allocated or stored.bits <= 8:
        return (black, white), ""
    return infer_range(low, high, np.dtype(np.uint16))


def _is_inverted(photometric: str, elements: Elements) -> bool:
    """Whether the lowest value is white. Both elements mean the same inversion, so it is applied once.

    PS3.3 C.8.11.3 requires IDENTITY with MONOCHROME2 and INVERSE with MONOCHROME1. Where they contradict each other,
    the one that demands the inversion is followed.
    """
    shape = elements.text("PresentationLUTShape").upper()
    if photometric == "MONOCHROME1":
        elements.note("MONOCHROME1 inverted")
        if shape == "IDENTITY":
            elements.note(f"{DOUBTS['polarity'].beginning}, left out")
        return True
    if shape == "INVERSE":
        elements.note("Presentation LUT Shape INVERSE applied to MONOCHROME2")
        return True
    return False
