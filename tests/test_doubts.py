"""Each kind of doubt is raised by a file, and for every format that can store more contrast than is shown."""

import importlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrflow.images import DOUBTS, find_doubts
from cxrflow.images.checks import jpeg
from cxrflow.images.jpeg_sampling import decode_unusual_sampling
from image_samples import FAINT, decode, encode, picture, tiff

SMOOTH = (np.add.outer(np.arange(120), np.arange(160)) * 14).astype(np.uint16)  # 12 bits


def in_16_bits(mode: str) -> bytes:
    """FAINT as a PNG of 16 bits per sample; Pillow cannot write colour of this depth."""
    channels = {"gray": 1, "gray alpha": 2, "RGB": 3, "RGBA": 4}[mode]
    values = np.repeat(FAINT[..., None], channels, axis=2)
    if mode.endswith(("alpha", "A")):
        values[..., -1] = 65535
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    color = {"gray": 0, "RGB": 2, "gray alpha": 4, "RGBA": 6}[mode]
    header = struct.pack(">IIBBBBB", FAINT.shape[1], FAINT.shape[0], 16, color, 0, 0, 0)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def transparent(mode: str, kind: str) -> bytes:
    """A picture behind an alpha channel of 0, as some programs export it."""
    image = picture().convert(mode)
    image.putalpha(0)
    return encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))


def jpeg2000(values: np.ndarray) -> bytes:
    pytest.importorskip("openjpeg", reason="the extra dicom is not installed")
    return encode(Image.fromarray(values), "JPEG2000", irreversible=False)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: in_16_bits("gray"), id="PNG gray"),
        pytest.param(lambda: in_16_bits("gray alpha"), id="PNG gray alpha"),
        pytest.param(lambda: in_16_bits("RGB"), id="PNG RGB"),
        pytest.param(lambda: in_16_bits("RGBA"), id="PNG RGBA"),
        pytest.param(lambda: tiff(FAINT), id="TIFF"),
        pytest.param(lambda: tiff(FAINT, photometric=0), id="TIFF, low is white"),
        pytest.param(lambda: tiff(FAINT.astype(np.float32)), id="TIFF floats"),
        pytest.param(lambda: tiff(FAINT.astype(np.int32) - 9), id="TIFF signed"),
        pytest.param(lambda: jpeg2000(FAINT), id="JPEG 2000"),
        pytest.param(lambda: transparent("L", "PNG"), id="transparent gray PNG"),
        pytest.param(lambda: transparent("RGB", "PNG"), id="transparent PNG"),
        pytest.param(lambda: transparent("RGB", "TIFF"), id="transparent TIFF"),
        pytest.param(lambda: transparent("RGB", "WEBP"), id="transparent WebP"),
    ],
)
def test_an_image_that_lost_its_contrast_is_noted_in_every_format(data):
    decoded = decode(data(), 60, 80)
    assert "nearly_empty" in find_doubts(decoded.note), decoded.note
    assert np.ptp(np.percentile(decoded.pixels, [1, 99])) < 24


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(Image.fromarray(SMOOTH)), id="12 bits in a PNG"),
        pytest.param(tiff(SMOOTH), id="12 bits in a TIFF"),
        pytest.param(encode(picture().convert("RGBA")), id="opaque PNG"),
        pytest.param(encode(picture(), "JPEG"), id="JPEG"),
        pytest.param(encode(Image.new("L", (160, 120), 7)), id="no contrast in the file either"),
        pytest.param(tiff(np.full((120, 160), 700, np.uint16)), id="no contrast in a deep file either"),
    ],
)
def test_an_image_that_kept_its_contrast_is_not(data):
    assert find_doubts(decode(data, 60, 80).note) == []


def test_a_transparent_border_is_no_doubt():
    image, alpha = picture().convert("RGBA"), np.full((120, 160), 255, np.uint8)
    alpha[:, :20] = 0
    image.putalpha(Image.fromarray(alpha))
    assert find_doubts(decode(encode(image), 60, 80).note) == []


def test_pixels_hidden_by_transparency_are_clipped():
    image, alpha = picture().convert("RGBA"), np.full((120, 160), 255, np.uint8)
    alpha[:, :100] = 0
    image.putalpha(Image.fromarray(alpha))
    assert decode(encode(image), 60, 80).note == "clipped: 62 % of the pixels are black"


def test_the_kinds_of_a_note():
    note = "first of 2 windows; clipped: 60 % of the pixels are black; nearly empty: 3 of 256 gray levels"
    assert find_doubts(note) == ["nearly_empty", "clipped"]
    assert find_doubts("") == find_doubts("first of 2 pages; 'clipped: x' is not a number") == []


@pytest.mark.parametrize("name", DOUBTS)
def test_a_kind_is_written_where_it_says_and_cannot_be_mistaken(name):
    module = importlib.import_module(DOUBTS[name].decided_in)
    assert f"DOUBTS['{name}']" in Path(str(module.__file__)).read_text().replace('"', "'")
    assert find_doubts(DOUBTS[name].beginning + "more") == [name]


WIDE = np.add.outer(np.arange(0, 2048, 64), np.arange(0, 2048, 64)).astype(np.uint16)
CASES = {
    "nearly_empty": {"WindowCenter": 60000, "WindowWidth": 120000},
    "clipped": {"WindowCenter": 6000, "WindowWidth": 6000},
    "inverted": {"RescaleSlope": -1, "RescaleIntercept": 0},
    "polarity": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
    "extra_bits": {"BitsStored": 10},
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_is_raised_by_a_dicom_file(name):
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    import dicom_samples as dicom

    data = dicom.saved(dicom.dataset(WIDE, **{"BitsStored": 12, **CASES[name]}))
    assert name in find_doubts(decode(data, 16, 16).note)


def test_dark_colour_in_dicom_is_noted():
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    import dicom_samples as dicom

    values = np.repeat(WIDE[..., None] // 16, 3, axis=2)  # 8 of the 12 bits declared
    assert find_doubts(decode(dicom.saved(dicom.dataset(values, BitsStored=12)), 16, 16).note) == ["nearly_empty"]
    assert find_doubts(decode(dicom.saved(dicom.dataset(values * 16, BitsStored=12)), 16, 16).note) == []


def test_a_jpeg_that_cannot_be_checked_is_noted():
    data = encode(picture(), "JPEG", progressive=True)
    note = decode_unusual_sampling(data, jpeg.read_header(data))[1]
    assert find_doubts(note) == ["unchecked"]
