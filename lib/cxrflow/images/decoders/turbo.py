"""The default decoder: libjpeg-turbo for JPEG, and the decoder ``pillow`` for all other formats.

One strict pass of libjpeg-turbo decodes to luma at a reduced scale and detects damage; ``pillow`` needs two passes.
Both use the same discrete cosine transform and the same scales, so the pixels are identical.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from PIL import Image

from cxrflow.images.checks import jpeg
from cxrflow.images.decode_result import Grayscale
from cxrflow.images.decoders import pillow
from cxrflow.images.jpeg_file import decode_jpeg
from cxrflow.images.jpeg_sampling import cmyk_to_luma
from cxrflow.images.library_errors import to_jpeg_error
from cxrflow.images.recipe import MAX_PIXELS


def decode(data: bytes, min_size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Grayscale:
    """Decode a file to gray values; a JPEG at the smallest scale not below ``min_size`` (height, width)."""
    if not data.startswith(b"\xff\xd8\xff") or data[128:132] == b"DICM":
        return pillow.decode(data, min_size, max_pixels)
    return decode_jpeg(data, min_size, max_pixels, _read_jpeg)


def _read_jpeg(data: bytes, header: jpeg.Header, min_size: tuple[int, int]) -> np.ndarray:
    denominator = scale_denominator(header.height, header.width, *min_size)
    color = "CMYK" if len(header.components) == 4 else "GRAY"
    try:
        pixels = simplejpeg.decode_jpeg(
            data, color, min_height=-(-header.height // denominator), min_width=-(-header.width // denominator)
        )
    except ValueError as error:
        raise to_jpeg_error(error, jpeg.END in data) from None
    if color == "GRAY":
        return pixels[..., 0]
    # cmyk_to_luma expects inverted values, as Pillow reads them
    image = Image.frombytes("CMYK", pixels.shape[1::-1], (255 - pixels).tobytes())
    return np.asarray(cmyk_to_luma(image, header.adobe))


def scale_denominator(height: int, width: int, min_height: int, min_width: int) -> int:
    """Return the largest of 8, 4, 2, 1 that keeps both sides at least at the minimum, as Pillow's draft mode does."""
    room = min(height // min_height, width // min_width)
    return next((candidate for candidate in (8, 4, 2) if room >= candidate), 1)
