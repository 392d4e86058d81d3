"""How a data set lays its pixel data out; ``pixel_data`` reads it, and the codecs of ``frame_codecs`` need it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """What the data set says about its pixel data, with defaults for what is missing or impossible."""

    height: int
    width: int
    samples: int
    allocated: int
    bits: int
    high_bit: int
    signed: bool
    planar: bool
    frames: int
    photometric: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of an uncompressed frame."""
        return (self.height * self.width * self.values_per_pixel() * self.allocated + 7) // 8

    def values_per_pixel(self) -> int:
        """Values stored per pixel: two where colour is subsampled horizontally."""
        return 2 if self.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and self.samples == 3 else self.samples
