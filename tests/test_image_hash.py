"""The perceptual hash of drawn and real images."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cxrflow.images import Recipe, decode_image
from cxrflow.images.image_hash import NEAR_BITS, perceptual_hash

pytestmark = pytest.mark.spark


def distance(one: str, two: str) -> int:
    return (int(one, 16) ^ int(two, 16)).bit_count()


def test_the_lowest_frequency_alone_sets_its_bits():
    # A cosine with half a period down the image: only frequency (1, 0) and, by rounding, its odd harmonics are above 0.
    down = 127.5 + 120 * np.cos(np.pi * (2 * np.arange(64) + 1) / 128)
    image = np.repeat(down.round().astype(np.uint8)[:, None], 64, axis=1)
    bits = bin(int(perceptual_hash(image[None])[0], 16))[2:].zfill(256)
    assert bits[0] == "0" and bits[16] == "1"  # the mean, and frequency (1, 0)
    turned = bin(int(perceptual_hash(image.T[None])[0], 16))[2:].zfill(256)
    assert turned[1] == "1"


def test_an_image_without_contrast_has_no_bits():
    assert perceptual_hash(np.full((2, 30, 50), 9, np.uint8)) == ["0" * 64] * 2


def saved_again(image: Image.Image, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved_again(image, quality=30),
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    ],
    ids=["quality 30", "half the size", "brighter"],
)
def test_copies_have_near_hashes_and_other_images_do_not(real_images, change):
    recipe = Recipe(224, 224)

    def hash_of(data: bytes) -> str:
        return perceptual_hash(decode_image(data, recipe).pixels[None])[0]

    def encode(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    files = sorted(real_images.glob("*/*"))[::12]
    originals = [hash_of(path.read_bytes()) for path in files]
    copies = [hash_of(encode(change(Image.open(path).convert("L")))) for path in files]
    assert max(map(distance, originals, copies)) <= NEAR_BITS
    others = [distance(one, two) for index, one in enumerate(originals) for two in originals[:index]]
    assert min(others) > NEAR_BITS
