"""The built-in augmentation: exposure, pose, fine detail and erased patches, in this order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxrflow.base.errors import UserError
from cxrflow.training.augment.detail import blurred, compressed, resampled, sharpened
from cxrflow.training.augment.exposure import exposure_tables, look_up
from cxrflow.training.augment.pose import inverse_maps, margins, warp
from cxrflow.training.augment.uniforms import uniforms

# Each parameter has its own column of random numbers, so switching one on does not change the values of the others.
_DRAWS = (
    "rotation",
    "shift_x",
    "shift_y",
    "zoom",
    "contrast",
    "brightness",
    "flip",
    "erase",
    "area",
    "shape",
    "left",
    "top",
    "gray",
    "aspect",
    "shear",
    "gamma",
    "margin",
    "margin_gray",
    "focus",
    "sigma",
    "resample",
    "share",
    "kernel",
    "compress",
    "quality",
)
_LARGEST = {"rotation": 180, "zoom": 9, "aspect": 9, "contrast": 9, "gamma": 9}
_SHARES = ("shift", "shear", "brightness", "flip", "blur", "sharpen", "resample", "compress", "erase")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How far images are changed. Each parameter is uniform over its range; 0 switches it off.

    Call a policy as the docstring of ``cxrflow.training.augment`` describes. Raises UserError for a value out of range.
    """

    rotation: float = 0.0
    """Largest rotation about the centre in degrees, in either direction. Chests are taken upright: 15 is a badly
    positioned patient."""
    shift: float = 0.0
    """Largest shift, as a share of the height and of the width, in either direction."""
    zoom: float = 0.0
    """Largest enlargement: 0.1 means factors from 1/1.1 to 1.1, uniform in the logarithm."""
    aspect: float = 0.0
    """Largest stretch of the width relative to the height: 0.35 means factors from 1/1.35 to 1.35 at the same area,
    uniform in the logarithm. In tables ingested with --resize stretch, the film's aspect ratio shows as a squeezed
    chest."""
    shear: float = 0.0
    """Largest shear: how far the bottom moves sideways relative to the centre, as a share of the distance between
    them."""
    mixed_margins: bool = False
    """What the warp shows outside the image: black, or if True at random black, a gray value or the repeated edge."""
    contrast: float = 0.0
    """Largest gain of contrast about middle gray: 0.25 means factors from 1/1.25 to 1.25, uniform in the logarithm."""
    brightness: float = 0.0
    """Largest change of all gray values as a share of 255, in either direction."""
    gamma: float = 0.0
    """Largest exponent of gray values: 0.4 means exponents from 1/1.4 to 1.4, uniform in the logarithm."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.3, 1.2)
    """Smallest and largest sigma of the blur in pixels."""
    sharpen: float = 0.0
    """Probability of unsharp masking. No image is blurred and sharpened: the two add up to at most 1."""
    sharpen_amount: tuple[float, float] = (0.3, 1.5)
    """Smallest and largest factor of the difference to a blurred image that unsharp masking adds."""
    resample: float = 0.0
    """Probability that an image is shrunk and enlarged again, by one of several interpolations."""
    resample_share: tuple[float, float] = (0.5, 0.93)
    """Smallest and largest share of height and width to which it is shrunk."""
    compress: float = 0.0
    """Probability of JPEG compression."""
    quality: tuple[int, int] = (40, 95)
    """Lowest and highest JPEG quality, from 1 to 100."""
    flip: float = 0.0
    """Probability of a mirror image. Off in every named policy, because a chest is not symmetric: the heart lies on the
    left, and a mirror image shows dextrocardia or situs inversus, which are findings. Side markers appear mirrored, and
    the frequency of disease differs by lobe and side. It may still help a task whose labels do not depend on the
    side."""
    erase: float = 0.0
    """Probability that a patch is erased (Zhong et al. 2020), that is, filled with one gray value from 0 to 255."""
    erase_area: tuple[float, float] = (0.02, 0.1)
    """Smallest and largest area of the patch as a share of the image. Its sides differ by a factor of at most 2."""

    def __post_init__(self):
        for name in (*_LARGEST, *_SHARES):
            value, limit = getattr(self, name), _LARGEST.get(name, 1)
            if not 0 <= value <= limit:
                raise UserError(f"Policy({name}=...): expected a number from 0 to {limit}, got {value}; change it")
        if self.blur + self.sharpen > 1:
            raise UserError(
                f"Policy(blur=..., sharpen=...): expected a sum of at most 1, got {self.blur} and "
                f"{self.sharpen}; lower one"
            )
        for name, least, most in (
            ("blur_sigma", 0.01, 100),
            ("sharpen_amount", 0.01, 10),
            ("resample_share", 0.01, 1),
            ("quality", 1, 100),
            ("erase_area", 0.0001, 0.5),
        ):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise UserError(
                    f"Policy({name}=...): expected two increasing numbers from {least} to {most}, got {low, high}; "
                    "change them"
                )

    def __call__(self, pixels: np.ndarray, sample_ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Apply the policy; see ``cxrflow.training.augment``."""
        draws = dict(zip(_DRAWS, uniforms(seed, epoch, sample_ids, len(_DRAWS)).T, strict=True))
        result = self._expose(pixels, draws) if self.contrast or self.brightness or self.gamma else pixels
        if self.rotation or self.shift or self.zoom or self.aspect or self.shear or self.flip:
            result = self._warp(result, draws)
        # The steps below change images in place, and must not change the caller's.
        if result is pixels and (self.blur or self.sharpen or self.resample or self.compress or self.erase):
            result = pixels.copy()
        self._degrade(result, draws)
        self._erase(result, draws)
        return result

    def _expose(self, pixels: np.ndarray, draws: dict) -> np.ndarray:
        return look_up(
            pixels,
            exposure_tables(
                (1 + self.contrast) ** _signed(draws["contrast"]),
                self.brightness * _signed(draws["brightness"]),
                (1 + self.gamma) ** _signed(draws["gamma"]),
            ),
        )

    def _warp(self, pixels: np.ndarray, draws: dict) -> np.ndarray:
        height, width = pixels.shape[1:3]
        maps = inverse_maps(
            (height, width),
            np.radians(self.rotation * _signed(draws["rotation"])),
            self.shift * width * _signed(draws["shift_x"]),
            self.shift * height * _signed(draws["shift_y"]),
            (1 + self.zoom) ** _signed(draws["zoom"]),
            draws["flip"] < self.flip,
            (1 + self.aspect) ** _signed(draws["aspect"]),
            self.shear * _signed(draws["shear"]),
        )
        return warp(pixels, maps, margins(draws["margin"], draws["margin_gray"]) if self.mixed_margins else None)

    def _degrade(self, images: np.ndarray, draws: dict) -> None:
        for i in np.flatnonzero(draws["resample"] < self.resample):
            images[i, ..., 0] = resampled(
                images[i, ..., 0], _between(self.resample_share, draws["share"][i]), draws["kernel"][i]
            )
        for i in np.flatnonzero(draws["focus"] < self.blur):
            images[i, ..., 0] = blurred(images[i, ..., 0], _between(self.blur_sigma, draws["sigma"][i]))
        for i in np.flatnonzero(draws["focus"] >= 1 - self.sharpen):
            images[i, ..., 0] = sharpened(images[i, ..., 0], _between(self.sharpen_amount, draws["sigma"][i]))
        for i in np.flatnonzero(draws["compress"] < self.compress):
            images[i, ..., 0] = compressed(images[i, ..., 0], round(_between(self.quality, draws["quality"][i])))

    def _erase(self, images: np.ndarray, draws: dict) -> None:
        height, width = images.shape[1:3]
        area = _between(self.erase_area, draws["area"])
        shape = 2 ** _signed(draws["shape"])  # height over width, relative to the image's own
        rows = np.rint(np.sqrt(area * shape) * height).astype(int)
        columns = np.rint(np.sqrt(area / shape) * width).astype(int)
        for i in np.flatnonzero(draws["erase"] < self.erase):
            top = int(draws["top"][i] * (height - rows[i] + 1))
            left = int(draws["left"][i] * (width - columns[i] + 1))
            images[i, top : top + rows[i], left : left + columns[i]] = int(draws["gray"][i] * 256)


_LIGHT = Policy(rotation=5, shift=0.04, zoom=0.05)
_STANDARD = Policy(
    rotation=12,
    shift=0.08,
    zoom=0.25,
    aspect=0.5,
    shear=0.08,
    mixed_margins=True,
    contrast=0.5,
    brightness=0.15,
    gamma=0.4,
    blur=0.5,
    sharpen=0.2,
    resample=0.3,
    compress=0.4,
)

POLICIES = {
    "none": Policy(),
    "light": _LIGHT,
    "standard": _STANDARD,
    "strong": replace(_STANDARD, rotation=15, shift=0.1, zoom=0.35, aspect=0.7, erase=0.25),
}
"""The named policies.

- none: no change.
- light: pose only, as between two exposures of one patient.
- standard: pose, the film's aspect ratio, exposure and fine detail.
- strong: standard with more pose, and erased patches.

standard is the default because it removes what a network can learn instead of lungs (measured in docs/benchmarks):
aspect ratio, sharpness and tone differ between the wards that take the images, and so between labels. No named policy
mirrors images, because that could make a label wrong."""


def _signed(uniform: np.ndarray) -> np.ndarray:
    """Map [0, 1) to [-1, 1)."""
    return 2 * uniform - 1


def _between(bounds: tuple[float, float], uniform):
    return bounds[0] + (bounds[1] - bounds[0]) * uniform
