"""The built-in augmentation: pose by one affine warp, exposure by one table look-up, and patches erased.

The warp is OpenCV's. Measured on one thread, bilinear, 224x224 pixels: cv2.warpAffine 6,000 images/s, Pillow's
Image.transform 2,000, scipy.ndimage.affine_transform 570.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from cxrflow.errors import UserError
from cxrflow.training.augment.uniforms import uniforms

# The column of uniforms that each parameter takes, so that switching one on leaves the others' values as they were.
_DRAWS = ("rotation", "shift_x", "shift_y", "zoom", "contrast", "brightness", "flip", "erase", "area", "shape", "left",
          "top", "gray")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How far images are changed; each parameter is uniform over its range, and 0 switches it off.

    A policy is called as ``cxrflow.training.augment`` says. Where the warp reaches beyond the image there is black.
    """

    rotation: float = 0.0
    """Largest rotation about the centre, degrees, either way. Chests are taken upright: 15 is a badly placed one."""
    shift: float = 0.0
    """Largest shift, as a share of the height and of the width, in either direction."""
    zoom: float = 0.0
    """Largest enlargement: 0.1 is from 1/1.1 to 1.1 times, in even proportions (uniform in the logarithm)."""
    contrast: float = 0.0
    """Largest gain of contrast about middle gray: 0.25 is from 1/1.25 to 1.25 times, uniform in the logarithm."""
    brightness: float = 0.0
    """Largest change of all gray values, as a share of 255, either way."""
    flip: float = 0.0
    """Probability of a mirror image. Off in every named policy: a chest is not symmetric. The heart lies on the left,
    and a mirror image shows dextrocardia or situs inversus, which are findings; side markers come out mirrored; and the
    frequency of disease differs by lobe and side. It may still help a task whose labels know no side."""
    erase: float = 0.0
    """Probability that a patch is erased (Zhong et al. 2020): filled with one gray value from 0 to 255."""
    erase_area: tuple[float, float] = (0.02, 0.1)
    """Smallest and largest area of that patch, as a share of the image. It is at most twice as long as broad."""

    def __post_init__(self):
        for name in ("rotation", "shift", "zoom", "contrast", "brightness", "flip", "erase"):
            value, most = getattr(self, name), {"rotation": 180, "zoom": 9, "contrast": 9}.get(name, 1)
            if not 0 <= value <= most:
                raise UserError(f"Policy({name}=...): expected a number from 0 to {most}, got {value}")
        if not 0 < self.erase_area[0] <= self.erase_area[1] <= 0.5:
            raise UserError(f"Policy(erase_area=...): expected two rising shares from 0 to 0.5, got {self.erase_area}")

    def __call__(self, pixels: np.ndarray, sample_ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        if self == Policy():
            return pixels
        draws = dict(zip(_DRAWS, uniforms(seed, epoch, sample_ids, len(_DRAWS)).T, strict=True))
        shown = self._expose(pixels, draws) if self.contrast or self.brightness else pixels
        made = self._warp(shown, draws) if self.rotation or self.shift or self.zoom or self.flip else shown
        return self._erase(made, pixels, draws) if self.erase else made

    def _expose(self, pixels: np.ndarray, draws: dict) -> np.ndarray:
        return look_up(pixels, exposure_tables((1 + self.contrast) ** _signed(draws["contrast"]),
                                               self.brightness * _signed(draws["brightness"])))

    def _warp(self, pixels: np.ndarray, draws: dict) -> np.ndarray:
        height, width = pixels.shape[1:3]
        return warp(pixels, inverse_maps(
            (height, width), np.radians(self.rotation * _signed(draws["rotation"])),
            self.shift * width * _signed(draws["shift_x"]), self.shift * height * _signed(draws["shift_y"]),
            (1 + self.zoom) ** _signed(draws["zoom"]), draws["flip"] < self.flip))

    def _erase(self, made: np.ndarray, pixels: np.ndarray, draws: dict) -> np.ndarray:
        if made is pixels:
            made = pixels.copy()
        height, width = pixels.shape[1:3]
        low, high = self.erase_area
        area = low + (high - low) * draws["area"]
        shape = 2 ** _signed(draws["shape"])  # height over width, relative to the image's own
        rows = np.rint(np.sqrt(area * shape) * height).astype(int)
        columns = np.rint(np.sqrt(area / shape) * width).astype(int)
        for i in np.flatnonzero(draws["erase"] < self.erase):
            top = int(draws["top"][i] * (height - rows[i] + 1))
            left = int(draws["left"][i] * (width - columns[i] + 1))
            made[i, top:top + rows[i], left:left + columns[i]] = int(draws["gray"][i] * 256)
        return made


def exposure_tables(gain: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """What becomes of each gray value, by sample: uint8 (B, 256), of (v - 127.5) * gain + 127.5 + 255 * offset."""
    values = (np.arange(256) - 127.5) * gain[:, None] + 127.5 + 255 * offset[:, None]
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def look_up(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Each image (H, W, 1) of ``pixels`` through its own row of ``tables``: uint8 (B, H, W, 1)."""
    made = np.empty(pixels.shape, np.uint8)
    for image, table, place in zip(pixels, tables, made, strict=True):
        _cv2().LUT(image, table, dst=place)
    return made


def inverse_maps(size: tuple[int, int], radians, right, down, zoom, flip) -> np.ndarray:
    """From places in the new image to places in the old one: float64 (B, 2, 3), on (x, y, 1) in pixels.

    The old image (H, W) is mirrored where ``flip``, turned anticlockwise and enlarged about its centre, then moved.
    All arguments but ``size`` are arrays (B,).
    """
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    cos, sin, side = np.cos(radians) / zoom, np.sin(radians) / zoom, np.where(flip, -1.0, 1.0)
    turn = np.array([[side * cos, -side * sin], [sin, cos]]).transpose(2, 0, 1)
    moved = centre + np.stack([right, down], axis=1)
    return np.concatenate([turn, (centre - np.einsum("bij,bj->bi", turn, moved))[..., None]], axis=2)


def warp(pixels: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Each image (H, W, 1) of ``pixels`` resampled once, bilinearly, by its inverse map; black outside."""
    cv2 = _cv2()
    made = np.empty(pixels.shape, np.uint8)
    for image, inverse, place in zip(pixels, maps, made, strict=True):
        cv2.warpAffine(image, inverse, image.shape[1::-1], dst=place, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                       borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return made


def _signed(uniform: np.ndarray) -> np.ndarray:
    """From [0, 1) to [-1, 1)."""
    return 2 * uniform - 1


@functools.lru_cache(maxsize=None)
def _cv2():
    """OpenCV, loaded when it is needed, on the caller's thread alone: a worker's cores are the network's."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
