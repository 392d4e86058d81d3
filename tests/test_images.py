import io

import numpy as np
import pytest
from PIL import Image

from cxrflow.images import REASONS, Recipe, Unreadable, decode_image


def decode(data, height, width, **options):
    return decode_image(data, Recipe(height, width, **options))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 40, width: int = 60) -> Image.Image:
    return Image.fromarray(np.add.outer(np.arange(height) * 2, np.arange(width)).astype(np.uint8))


def test_grayscale_at_its_own_size_is_unchanged():
    decoded = decode(encode(gradient()), 40, 60)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, np.asarray(gradient()))
    assert (decoded.source_height, decoded.source_width, decoded.source_format) == (40, 60, "PNG")


def test_colour_becomes_luma():
    # ITU-R 601-2: 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert decode(encode(Image.new("RGB", (8, 8), (200, 100, 50))), 8, 8).pixels[0, 0] == 124


def test_transparency_is_composed_on_black():
    # 200 at half opacity (128 / 255) over 0: 100.4
    assert abs(int(decode(encode(Image.new("LA", (8, 8), (200, 128))), 8, 8).pixels[0, 0]) - 100) <= 1


def test_sixteen_bits_are_divided_by_256():
    deep = Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16))
    np.testing.assert_array_equal(decode(encode(deep), 1, 4).pixels, [[0, 0, 1, 255]])


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    sides = Image.fromarray(np.repeat([[0, 255]], 20, axis=0).repeat(20, axis=1).astype(np.uint8))  # 20 x 40
    decoded = decode(encode(sides, "JPEG", exif=exif, quality=95), 40, 20)
    assert (decoded.source_height, decoded.source_width) == (40, 20)
    assert decoded.pixels[:15].max() < 10 and decoded.pixels[-15:].min() > 245


def test_a_jpeg_decoded_at_a_smaller_scale_agrees_with_the_whole_one(real_images):
    worst = 0.0
    for path in sorted(real_images.glob("*/*"))[::40]:
        data = path.read_bytes()
        whole = Image.open(io.BytesIO(data)).convert("L").resize((224, 224), Image.Resampling.BILINEAR)
        difference = np.abs(decode(data, 224, 224).pixels.astype(int) - np.asarray(whole).astype(int))
        worst = max(worst, float(difference.mean()))
    assert worst < 2.0  # of 255: the scales are averages over whole pixels, the filter's edges differ a little


def damaged() -> dict[str, tuple[bytes, str]]:
    jpeg = encode(gradient(200, 200), "JPEG")
    png = bytearray(encode(gradient(200, 200)))
    png[60] ^= 0xFF
    return {
        "empty": (b"", "empty"),
        "text": (b"not an image at all", "not_an_image"),
        "half a JPEG": (jpeg[: len(jpeg) // 2], "truncated"),
        "a PNG with a wrong byte": (bytes(png), "corrupt"),
    }


@pytest.mark.parametrize("name", damaged())
def test_what_gives_no_image_is_refused_with_its_reason(name):
    data, reason = damaged()[name]
    with pytest.raises(Unreadable) as refused:
        decode(data, 8, 8)
    assert refused.value.reason == reason and reason in REASONS and refused.value.detail


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded():
    # 1-bit PNG of 20,000 x 20,000 equal pixels: a few kilobytes of file
    with pytest.raises(Unreadable, match="20000 x 20000") as refused:
        decode(encode(Image.new("1", (20_000, 20_000))), 8, 8)
    assert refused.value.reason == "too_large"
