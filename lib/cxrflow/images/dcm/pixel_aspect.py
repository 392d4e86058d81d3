"""The shape of a pixel: height divided by width."""

from __future__ import annotations

from cxrflow.images.dcm.elements import Elements

TOLERANCE, LARGEST = 0.01, 20.0
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def read_aspect(elements: Elements) -> float:
    """Return a pixel's height divided by its width: 1 unless they differ by more than 1 %.

    The distances between rows and between columns decide (PS3.3 10.7.1.3). Pixel Aspect Ratio (C.7.6.3.1.7) is read if
    the data set has none of them.
    """
    for keyword in (*SPACINGS, "PixelAspectRatio"):
        sizes = elements.numbers(keyword)
        if not sizes:
            continue
        if len(sizes) < 2 or min(sizes[:2]) <= 0 or not 1 / LARGEST <= sizes[0] / sizes[1] <= LARGEST:
            elements.note(f"{keyword} left out: expected two positive numbers")
            continue
        ratio = sizes[0] / sizes[1]
        if abs(ratio - 1) <= TOLERANCE:
            return 1.0
        elements.note(f"pixels are {ratio:.3g} times as high as wide")
        return ratio
    return 1.0
