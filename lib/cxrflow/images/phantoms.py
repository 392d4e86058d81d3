"""Synthetic chest X-ray phantoms for the demo and the tests. They show no real person.

A phantom has a body, two lungs, heart, spine, ribs and noise. Half of the phantoms have soft opacities in a lung, some
of them hardly visible. Every image, its label and its file name contain the word SYNTHETIC. Phantoms show that the
program runs. They do not show how well it works on real X-rays.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LABELS = ("SYNTHETIC_NORMAL", "SYNTHETIC_OPACITY")
PATIENT_RULE = r"(phantom\d+)_"
"""A value for IngestConfig.patients: it extracts the patient from the file name."""
HEIGHTS = (320, 512, 700, 900, 1100, 1400, 1800, 2500)
_BASE = 256  # the anatomy is drawn at this size and enlarged; noise is drawn at full size
_Y, _X = np.mgrid[0 : 1 : _BASE * 1j, 0 : 1 : _BASE * 1j]


def make_phantoms(folder: str, patients: int = 360, images_per_patient: int = 2, seed: int = 0) -> int:
    """Write phantoms as JPEG files to one subfolder of ``folder`` per label, and four broken files.

    Returns the number of files. The same arguments give the same images.
    """
    root = Path(folder)
    for label in LABELS:
        (root / label).mkdir(parents=True, exist_ok=True)
    tasks = [(root, patient, index, seed) for patient in range(patients) for index in range(images_per_patient)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_write, tasks, chunksize=8))
    return len(tasks) + _write_broken(root)


def draw_phantom(height: int, opaque: bool, patient: int, index: int, seed: int = 0) -> np.ndarray:
    """Draw one phantom: uint8 (height, width), 0 is black; the width is 0.9 to 1.2 times the height.

    The anatomy depends on (seed, patient). Pose, exposure, noise and opacities also depend on ``index``, the number of
    the patient's image.
    """
    anatomy, scene = np.random.default_rng((seed, patient)), np.random.default_rng((seed, patient, index + 1))
    width = round(height * anatomy.uniform(0.9, 1.2))
    body, lungs = _draw_anatomy(anatomy)
    if opaque:
        body += _draw_opacities(scene, lungs)
    body = body + 0.02 * _cloudy(scene, 24)  # soft tissue is never uniform
    image = Image.fromarray(np.clip(body * 255, 0, 255).astype(np.uint8))
    image = image.rotate(scene.uniform(-4, 4), Image.Resampling.BICUBIC)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    pixels = pixels * scene.uniform(0.8, 1.1) + scene.uniform(-10, 15)
    pixels += scene.normal(0, 6, pixels.shape).astype(np.float32)
    return _stamp(np.clip(pixels, 0, 255).astype(np.uint8))


def _draw_anatomy(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (brightness, lungs), both float (_BASE, _BASE), 0 to 1."""
    middle, top, size = random.normal(0.5, 0.015), random.normal(0.47, 0.02), random.normal(1, 0.06)
    body = 0.62 * _ellipse(middle, 0.62, 0.47, 0.62, 0.04)
    lungs = np.maximum(
        _ellipse(middle - 0.2 * size, top, 0.145 * size, 0.33 * size, 0.03),
        _ellipse(middle + 0.2 * size, top, 0.135 * size, 0.31 * size, 0.03),
    )
    heart = _ellipse(middle + 0.06, top + 0.19, random.normal(0.15, 0.015), 0.14, 0.03)
    lungs = lungs * (1 - 0.9 * heart)
    body = body * (1 - random.normal(0.68, 0.05) * lungs) + 0.12 * heart
    body += random.normal(0.16, 0.02) * np.exp(-(((_X - middle) / 0.035) ** 2))  # spine
    for rib in range(9):
        curve = 0.14 + 0.085 * rib + 0.16 * np.abs(_X - middle) ** 1.3
        body += 0.055 * np.exp(-(((_Y - curve) / 0.012) ** 2)) * (np.abs(_X - middle) < 0.38)
    return body, lungs


def _draw_opacities(random: np.random.Generator, lungs: np.ndarray) -> np.ndarray:
    """Return the brightness to add for opacities: one to three soft clouds inside the lungs."""
    positions = np.argwhere(lungs > 0.8)
    clouds = np.zeros_like(lungs)
    for _ in range(random.integers(1, 4)):
        y, x = positions[random.integers(len(positions))] / _BASE
        cloud = _ellipse(x, y, random.uniform(0.05, 0.11), random.uniform(0.06, 0.15), 0.35)
        texture = 0.7 + 0.3 * np.clip(_cloudy(random, 20), -1, 1)
        clouds = np.maximum(clouds, random.uniform(0.14, 0.45) * cloud * texture)
    return clouds * lungs


def _ellipse(x: float, y: float, rx: float, ry: float, softness: float) -> np.ndarray:
    """Draw an ellipse: 1 inside, 0 outside, with an edge of the given softness (relative to the radius)."""
    distance = np.sqrt(((_X - x) / rx) ** 2 + ((_Y - y) / ry) ** 2)
    return 1 / (1 + np.exp(np.clip((distance - 1) / softness, -30, 30)))


def _cloudy(random: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise with a standard deviation near 1, float (_BASE, _BASE): an enlarged grid of random values."""
    grid = Image.fromarray(random.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((_BASE, _BASE), Image.Resampling.BICUBIC))


def _stamp(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).text(
        (image.width * 0.02, image.height * 0.01), "SYNTHETIC", fill=200, font_size=max(10, image.height // 25)
    )
    return np.asarray(image)


def _write(task: tuple[Path, int, int, int]) -> None:
    root, patient, index, seed = task
    random = np.random.default_rng((seed, patient, index, 7))
    opaque = patient % 2 == 1
    height = int(random.choice(HEIGHTS, p=[0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.07, 0.03]))
    image = Image.fromarray(draw_phantom(height, opaque, patient, index, seed))
    if random.random() < 0.1:
        image = image.convert("RGB")  # some real collections mix gray and colour files
    image.save(root / LABELS[opaque] / f"phantom{patient:04d}_{index + 1}_synthetic.jpeg", quality=88)


def _write_broken(root: Path) -> int:
    """Write broken files as they occur in real folders. Each must end in quarantine."""
    whole = sorted((root / LABELS[0]).glob("phantom*.jpeg"))[0].read_bytes()
    broken = {
        "broken1_synthetic.jpeg": whole[: len(whole) // 2],
        "broken2_synthetic.jpeg": b"",
        "broken3_synthetic.jpeg": b"This is a text file with the name of an image.\n",
        "broken4_synthetic.jpeg": whole[:2] + bytes(200),
    }
    for name, content in broken.items():
        (root / LABELS[0] / name).write_bytes(content)
    return len(broken)
