"""Draw what the policies do to a synthetic phantom: ``python -m cxrflow.training.augment.sheet sheet.png``."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw

from cxrflow.images.phantoms import draw_phantom
from cxrflow.training.augment import POLICIES, augment

SIZE, EPOCHS, MARGIN = 128, 6, 74
"""Height and width of an image in pixels, columns, and width of the column of names in pixels."""


def draw_sheet() -> np.ndarray:
    """Draw one phantom: a row per named policy and a column per epoch. Returns uint8 (height, width)."""
    phantom = Image.fromarray(draw_phantom(2 * SIZE, True, 3, 0)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels, sample_ids = np.asarray(phantom)[None, :, :, None], np.array([3])
    rows = [
        np.concatenate(
            [augment(policy, pixels, sample_ids, seed=0, epoch=epoch)[0, :, :, 0] for epoch in range(EPOCHS)], axis=1
        )
        for policy in POLICIES.values()
    ]
    sheet = Image.new("L", (MARGIN + EPOCHS * SIZE, len(rows) * SIZE), 255)
    sheet.paste(Image.fromarray(np.concatenate(rows)), (MARGIN, 0))
    for row, name in enumerate(POLICIES):
        ImageDraw.Draw(sheet).text((6, (row + 0.45) * SIZE), name, fill=0, font_size=14)
    return np.asarray(sheet)


if __name__ == "__main__":
    Image.fromarray(draw_sheet()).quantize(64).save(sys.argv[1], optimize=True)
