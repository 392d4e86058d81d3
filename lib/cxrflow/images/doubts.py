"""Doubts: the notes which mean that an image's pixels may be wrong. All other notes state what was done.

``DOUBTS`` is the one list of their kinds. Code that writes such a note begins it with ``beginning``; ingest, predict
and the report count kinds, because the texts contain numbers and so hardly two are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxrflow.images.decode_result import SEPARATOR


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A kind of doubt."""

    beginning: str
    """The first words of its notes."""
    meaning: str
    """What is suspicious, as a clause without a full stop."""
    advice: str
    """What to do about it, as a sentence."""
    decided_in: str
    """The module that writes the note."""


DOUBTS = {
    "nearly_empty": Doubt(
        beginning="nearly empty: ",
        meaning="the image has fewer than 24 of 256 gray levels, although the file has more contrast",
        advice="The bit depth, the window or the alpha channel of the file is probably wrong: export it again.",
        decided_in="cxrflow.images.render_checks",
    ),
    "clipped": Doubt(
        beginning="clipped: ",
        meaning="more than half of the pixels were clipped to black or white, although their values differ in the file",
        advice="The window or the alpha channel of the file is probably wrong: export it with another one.",
        decided_in="cxrflow.images.render_checks",
    ),
    "inverted": Doubt(
        beginning="high stored values are dark",
        meaning="a table or a negative slope in the file inverts the image",
        advice="If bones are dark in the result, correct the lookup table or the rescale slope of the file.",
        decided_in="cxrflow.images.dcm.grayscale",
    ),
    "polarity": Doubt(
        beginning="Presentation LUT Shape IDENTITY contradicts MONOCHROME1",
        meaning="two elements of the file disagree about whether low values are white; white was used",
        advice="If bones are dark in the result, correct the photometric interpretation of the file.",
        decided_in="cxrflow.images.dcm.grayscale",
    ),
    "extra_bits": Doubt(
        beginning="bits above the ",
        meaning="bits are set above those that the file declares, and were masked",
        advice="If the result has hard edges inside the body, the declared bits are wrong: export the file again.",
        decided_in="cxrflow.images.dcm.pixel_data",
    ),
    "unchecked": Doubt(
        beginning="unusual sampling, not checked",
        meaning="the file could not be checked for damage",
        advice="Look for gray or shifted blocks, or save the file again as an ordinary JPEG.",
        decided_in="cxrflow.images.jpeg_sampling",
    ),
}


def find_doubts(note: str) -> list[str]:
    """The kinds of doubt in an image's note, in the order of DOUBTS; each once."""
    parts = note.split(SEPARATOR)
    return [name for name, doubt in DOUBTS.items() if any(part.startswith(doubt.beginning) for part in parts)]
