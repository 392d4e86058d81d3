"""How the files of a table are converted to pixels."""

from __future__ import annotations

from dataclasses import dataclass

from cxrflow.base.config.option_checks import flag
from cxrflow.base.errors import UserError
from cxrflow.images.resize import RESIZES

DEFAULT_DECODER = "turbo"
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Recipe:
    """The conversion settings of a table. Plain data, so Spark can send it to the executors."""

    height: int
    """Height of the table's images in pixels."""
    width: int
    """Width of the table's images in pixels."""
    decoder: str = DEFAULT_DECODER
    """A name in DECODERS, an entry point of the group ``cxrflow.decoders``, or ``module:function``."""
    resize: str = "stretch"
    """A name in RESIZES: "stretch" fills the whole size, "pad" keeps the aspect ratio and adds black borders."""
    max_pixels: int = MAX_PIXELS
    """Files that declare more pixels are refused before they are decoded (``--max-pixels``)."""

    def __post_init__(self):
        for name in ("height", "width", "max_pixels"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)}: expected a number above 0, got {getattr(self, name)}")
        if self.resize not in RESIZES:
            raise UserError(f"--resize: expected one of {', '.join(RESIZES)}; got {self.resize!r}")
