"""The reference decoder: Pillow, with strict checks that Pillow itself does not make.

It reads JPEG, PNG, TIFF, BMP, GIF and WebP. Optional packages read DICOM, JPEG 2000, JPEG XL, and lossless and 12-bit
JPEG. Colour is converted to luma (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B), transparent images are composed on black,
and the EXIF orientation is applied. Files of several pages or frames give the first. Colour profiles, gamma and the
pixel aspect ratio are ignored. More than 8 bits per sample follow ``cxrflow.images.bit_depth``.
"""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from cxrflow.images import orientation
from cxrflow.images.bit_depth import finite_range, infer_range
from cxrflow.images.checks import bmp, gif, jpeg, png, tiff, webp
from cxrflow.images.decode_result import DecodeError, Grayscale, join_notes
from cxrflow.images.decoders import dicom
from cxrflow.images.deep_color import is_deep_color, read_luma
from cxrflow.images.formats import check_size, sniff, unknown_format_error
from cxrflow.images.jpeg_file import decode_jpeg
from cxrflow.images.jpeg_sampling import draft_luma
from cxrflow.images.library_errors import to_decode_error
from cxrflow.images.optional_codecs import OPTIONAL, decode_optional
from cxrflow.images.recipe import MAX_PIXELS

# We call each plug-in directly: Image.open would try other plug-ins and hide the reason of a failure.
OPENERS = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
STRUCTURE = {
    "PNG": png.check_structure,
    "BMP": bmp.check_structure,
    "GIF": gif.check_structure,
    "WEBP": webp.check_structure,
    "TIFF": tiff.check_structure,
}

PHOTOMETRIC, BITS_PER_SAMPLE, SAMPLE_FORMAT = 262, 258, 339
SAMPLES_PER_PIXEL, PLANAR, EXTRA_SAMPLES = 277, 284, 338
INVERTED = "MINISWHITE inverted"

# Pillow's own limit would come before ``--max-pixels``, with a less helpful message.
Image.MAX_IMAGE_PIXELS = None

_warnings_lock = threading.Lock()


def decode(data: bytes, min_size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Grayscale:
    """Decode a file to gray values; a JPEG at the smallest scale not below ``min_size`` (height, width)."""
    kind = sniff(data)
    if kind == "DICOM":
        return dicom.decode(data, min_size, max_pixels)
    if kind in OPTIONAL:
        return decode_optional(data, kind, max_pixels)
    if kind not in OPENERS:
        raise unknown_format_error(data)
    try:
        if kind == "JPEG":
            return decode_jpeg(data, min_size, max_pixels, _read_jpeg)
        with open_image(data, kind, max_pixels) as image:
            check_content(image, data)
            return _decode_other(image, data)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # Pillow's plug-ins raise a dozen unrelated exception types on damaged files
        raise to_decode_error(error, kind) from error


def open_image(data: bytes, kind: str, max_pixels: int) -> Image.Image:
    """Check the file's structure and its declared size, and open it without decoding pixels."""
    if kind in STRUCTURE:
        STRUCTURE[kind](data)
    if kind == "JPEG":
        header = jpeg.read_header(data)
        check_size(header.height, header.width, max_pixels)
        jpeg.check_header(header, data)
    image = _open(data, kind)
    check_size(image.height, image.width, max_pixels)
    return image


def _open(data: bytes, kind: str) -> Image.Image:
    return _open_tiff(data) if kind == "TIFF" else OPENERS[kind](io.BytesIO(data))


def _open_tiff(data: bytes) -> Image.Image:
    """Open a TIFF file and treat Pillow's warnings about damaged directories as errors.

    The warning filter is global to the process, so a lock protects it. Only the TIFF plug-in warns about damage.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("error")
        return _Tiff(io.BytesIO(data))


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Reads gray with alpha of 16 bits, which Pillow does not know, as four channels of 8 bits."""

    def _setup(self) -> None:
        tags = self.tag_v2
        gray_alpha = tags.get(BITS_PER_SAMPLE) == (16, 16) and tags.get(PHOTOMETRIC) == 1
        if gray_alpha and tags.get(tiff.COMPRESSION, 1) == 1 and tags.get(PLANAR, 1) == 1:
            tags[BITS_PER_SAMPLE], tags[SAMPLES_PER_PIXEL] = (8, 8, 8, 8), 4
            tags[PHOTOMETRIC], tags[EXTRA_SAMPLES] = 2, (2,)
            super()._setup()
            tags[BITS_PER_SAMPLE], self._mode = (16, 16), "LA"
        else:
            super()._setup()


def check_content(image: Image.Image, data: bytes) -> None:
    """Run the checks that read all image data."""
    if image.format == "JPEG":
        jpeg.check_scan_data(data, "CMYK" if image.mode == "CMYK" else "GRAY")
    elif image.format == "PNG":
        png.check_stream(data)
    elif image.format == "TIFF":
        tiff.check_strips(data, image.tag_v2)


def _read_jpeg(data: bytes, header: jpeg.Header, size: tuple[int, int]) -> np.ndarray:
    with _open(data, "JPEG") as image:
        check_content(image, data)
        return draft_luma(image, header, size)


def _decode_other(image: Image.Image, data: bytes) -> Grayscale:
    # Pillow would decode all frames of a GIF and all pages of a TIFF to count them
    count = {"GIF": gif.count_frames, "TIFF": tiff.count_pages}.get(image.format)
    pages = count(data) if count else getattr(image, "n_frames", 1)
    first = f"first of {pages} {'pages' if image.format == 'TIFF' else 'frames'}" if pages > 1 else ""
    bits = bits_per_sample(image, data)
    stored: np.ndarray | None
    value_range: tuple[float, float] | None
    if is_deep_color(image, bits):
        luma = read_luma(lambda: _open(data, image.format))
        pixels, value_range, inverted, stored = luma.pixels, luma.value_range, luma.note, luma.stored
    else:
        image.load()
        stored = _before_alpha(image)
        pixels, value_range, inverted = to_grayscale(image, bits)
    turn, broken = (1, "") if image.format == "TIFF" else orientation.read(image.info.get("exif", b""))
    return Grayscale(
        pixels=orientation.apply(pixels, turn),
        value_range=value_range,
        bits=bits,
        verified=True,
        note=join_notes(first, inverted, broken),
        stored=None if stored is None else orientation.apply(stored, turn),
    )


def bits_per_sample(image: Image.Image, data: bytes) -> int:
    """Return the bits per sample that the file stores."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return image.tag_v2.get(BITS_PER_SAMPLE, (1,))[0]
    return 1 if image.mode == "1" else 8


def to_grayscale(image: Image.Image, bits: int) -> tuple[np.ndarray, tuple[float, float] | None, str]:
    """Return (pixels, value_range, note) of Grayscale: deep gray values as stored, all others as luma."""
    if image.mode.startswith(("I", "F")) or (image.format == "TIFF" and image.tag_v2.get(SAMPLE_FORMAT) == (2,)):
        return _deep_values(image, bits)
    inverted = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0
    return _luma(image, bits), None, INVERTED if inverted else ""


def _deep_values(image: Image.Image, bits: int) -> tuple[np.ndarray, tuple[float, float] | None, str]:
    pixels = np.asarray(image)
    signed = image.format == "TIFF" and image.tag_v2.get(SAMPLE_FORMAT) == (2,)
    if image.mode == "I" and not (bits == 32 and signed):  # Pillow returns all of them as signed 32-bit values
        pixels = pixels.astype({(16, True): np.int16, (16, False): np.uint16}.get((bits, signed), np.uint32))
    if image.mode == "L":
        pixels = pixels.view(np.int8)
    value_range = (0, 4095) if bits == 12 else None
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:  # Pillow inverts only up to 8 bits
        (black, white), note = infer_range(*finite_range(pixels), pixels.dtype)
        return pixels, (white, black), join_notes(INVERTED, note)
    if isinstance(key := image.info.get("transparency"), int):
        pixels = np.where(pixels == key, 0, pixels)
    return pixels, value_range, ""


def _before_alpha(image: Image.Image) -> np.ndarray | None:
    """Return uint8 luma (H, W) without the alpha channel; None if there is none, or values are stored composed."""
    if image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info):
        return np.asarray(image.convert("RGBA").convert("L"))
    return None


def _luma(image: Image.Image, bits: int) -> np.ndarray:
    """Convert any mode of 8 bits per sample to uint8 luma on black."""
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode in ("1", "L"):
        gray = np.asarray(image.convert("L"))
        # Pillow expands pixels of 1, 2 and 4 bits to 8 bits, but the key only for 1 bit (since Pillow 12)
        level = 255 * bool(key) if image.mode == "1" else key * (255 // (2**bits - 1))
        return np.where(gray == level, 0, gray).astype(np.uint8)
    if image.mode in ("La", "RGBa"):  # premultiplied values already equal the composition on black
        image = Image.merge("L" if image.mode == "La" else "RGB", image.split()[:-1])
    if image.mode in ("LA", "PA", "RGBA") or key is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image.convert("L"))
