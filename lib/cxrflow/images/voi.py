"""DICOM's grayscale pipeline (PS3.3 C.11): stored values -> modality -> values of interest -> uint8.

1. Modality LUT, or rescale slope and intercept.
2. The first VOI LUT, else the first window (LINEAR, LINEAR_EXACT or SIGMOID). As in the standard, values outside
   a window become black or white: that is the one place where values are clipped, by the file's own wish.
3. With neither: the range that the bits stored allow. Where they say nothing (as many stored as allocated) or the
   values contradict them, ``values.infer_range`` decides, for files that carry 12 bits as 16 come out nearly
   black otherwise. Nothing is clipped.
4. MONOCHROME1 is inverted.

A window that is not one (a width below 1, or 0 and less for the other two functions), or that leaves no contrast,
is left out with a note. Every pixel value goes through one table, so the cost hardly depends on the pipeline.
"""

from __future__ import annotations

import numpy as np

from cxrflow.images.bit_depth import infer_range, scale
from cxrflow.images.decode_result import DecodeError, join_notes


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """C.11.2.1.2.1: values -> 0..255 (float); the window holds ``width`` integers, so one less than its ends span."""
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, 255.0)
    return np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255.0, 0, 255)


def linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """C.11.2.1.3.2"""
    return np.clip(((values - center) / width + 0.5) * 255.0, 0, 255)


def sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """C.11.2.1.3.1"""
    return 255.0 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))


FUNCTIONS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


def show(stored: np.ndarray, dataset) -> tuple[np.ndarray, str]:
    """Stored values (H, W), integers or floats -> uint8 (H, W) as the dataset wants them shown, and a note."""
    low, high = stored.min().item(), stored.max().item()
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DecodeError("corrupt", "NaN or infinite values, which have no gray")
        return _show(stored, low, high, dataset)
    # a table for every value in use instead of the pipeline for every pixel
    first = min(low, 0)
    table, note = _show(np.arange(first, high + 1), low, high, dataset)
    return np.take(table, stored if first == 0 else stored.astype(np.int32) - first), note


def _show(values: np.ndarray, low: float, high: float, dataset) -> tuple[np.ndarray, str]:
    display = _display_elements(dataset)
    shown, note = _chosen(values, low, high, display)
    grays = np.rint(shown).astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 255 - grays, join_notes(note, "MONOCHROME1 inverted")
    return grays, note


def _chosen(values, low, high, display) -> tuple[np.ndarray, str]:
    """The first of VOI LUT, window and range that applies: 0..255 (float), and the note."""
    physical, note = _modality(values, display), ""
    if display.get("VOILUTSequence"):
        return _voi_lut(physical, display)
    if display.get("WindowCenter") is not None and display.get("WindowWidth") is not None:
        shown, note = _window(physical, display)
        if shown is not None:
            in_use = shown[(values >= low) & (values <= high)]
            if low == high or np.ptp(in_use) >= 1:
                return shown, note
            note = "window left out: it leaves no contrast"
    shown, said = _range(values, low, high, display)
    return shown, join_notes(note, said)


def _voi_lut(physical: np.ndarray, display) -> tuple[np.ndarray, str]:
    count, first = len(display.VOILUTSequence), display.VOILUTSequence[0]
    shown = apply_lut(physical, first) * (255.0 / (2 ** first.LUTDescriptor[2] - 1))
    if shown.max() > 255:
        raise DecodeError("corrupt", f"VOI LUT with values beyond its {first.LUTDescriptor[2]} bits")
    return shown, f"first of {count} VOI LUTs" if count > 1 else ""


def apply_lut(values: np.ndarray, item) -> np.ndarray:
    """C.11.1.1.1: values below the first that is mapped take the first entry, those above the last the last."""
    entries, first, _ = item.LUTDescriptor
    entries, table = entries or 2**16, item.LUTData
    if isinstance(table, bytes):  # two bytes an entry, or one where only 8 bits are used
        table = np.frombuffer(table, "<u2" if len(table) >= 2 * entries else np.uint8)
    table = np.atleast_1d(table)[:entries]
    if len(table) < entries:
        raise DecodeError("corrupt", f"LUT of {entries} entries with only {len(table)}")
    return table[np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)]


def _window(physical: np.ndarray, display) -> tuple[np.ndarray | None, str]:
    centers, widths = _as_tuple(display.WindowCenter), _as_tuple(display.WindowWidth)
    name = display.get("VOILUTFunction") or "LINEAR"
    if name not in FUNCTIONS:
        raise DecodeError("unsupported", f"VOI LUT function {name!r}; expected one of {sorted(FUNCTIONS)}")
    center, width = float(centers[0]), float(widths[0])
    if not np.isfinite(center) or not width >= (1 if name == "LINEAR" else np.nextafter(0, 1)):
        return None, f"window left out: center {center:g}, width {width:g}"
    return FUNCTIONS[name](physical, center, width), f"first of {len(centers)} windows" if len(centers) > 1 else ""


def _as_tuple(value) -> list:
    return list(value) if hasattr(value, "__iter__") else [value]


def _range(values, low, high, display) -> tuple[np.ndarray, str]:
    """No window: black and white by the stored values, however they are rescaled (a negative slope inverts)."""
    (black, white), note = stored_range(low, high, values.dtype, display)
    if display.get("ModalityLUTSequence"):
        black, white, values = 0, 2 ** display.ModalityLUTSequence[0].LUTDescriptor[2] - 1, _modality(values, display)
    elif float(display.get("RescaleSlope") or 1) < 0:
        black, white = white, black
    return scale(np.clip(values, min(black, white), max(black, white)), black, white), note


def _modality(values: np.ndarray, display) -> np.ndarray:
    """Stored values -> the device's units."""
    if display.get("ModalityLUTSequence"):
        return apply_lut(values, display.ModalityLUTSequence[0])
    slope, intercept = display.get("RescaleSlope"), display.get("RescaleIntercept")
    if slope is None and intercept is None:
        return values
    return values * float(1 if slope is None else slope) + float(intercept or 0)


def stored_range(low: float, high: float, dtype: np.dtype, display) -> tuple[tuple[float, float], str]:
    """The stored values that are black and white, and a note where the image itself had to tell."""
    stored, allocated = display.get("BitsStored"), display.get("BitsAllocated")
    signed = display.get("PixelRepresentation") == 1
    if np.dtype(dtype).kind == "f" or stored is None or allocated > 16:
        return (low, high), f"scaled from its own range, {low:g} to {high:g}"
    magnitude = stored - 1 if signed else stored
    black, white = (-(2**magnitude) if low < 0 else 0), 2**magnitude - 1
    if low < black or high > white:
        found, note = infer_range(low, high, np.uint16)
        return found, f"values from {low} to {high} in {stored} bits stored; {note}"
    if stored < allocated or allocated == 8:
        return (black, white), ""
    return infer_range(low, high, np.dtype(np.uint16))


def _display_elements(dataset):
    """The elements that say how to show the first frame: enhanced objects keep them in functional groups."""
    from pydicom import Dataset

    display = Dataset()
    groups = [dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")]
    nested = [
        group[0].get(name)
        for group in groups
        if group
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence")
    ]
    for source in (dataset, *(sequence[0] for sequence in nested if sequence)):
        for name in ELEMENTS:
            if name in source:
                display[name] = source[name]
    return display


ELEMENTS = (
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "BitsStored",
    "BitsAllocated",
    "PixelRepresentation",
)
