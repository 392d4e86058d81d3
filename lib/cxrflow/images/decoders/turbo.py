"""The default decoder: JPEG in one strict pass of libjpeg-turbo, everything else as ``pillow`` does.

One call decodes straight to luma at a reduced scale and refuses damage on the way, where ``pillow`` needs one pass
for each. The discrete cosine transform and the scales are those of Pillow, so are the pixels.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from PIL import Image

from cxrflow.images import orientation
from cxrflow.images.checks import jpeg
from cxrflow.images.decode_result import Grayscale
from cxrflow.images.decoders import pillow
from cxrflow.images.formats import check_size
from cxrflow.images.recipe import MAX_PIXELS


def decode(data: bytes, min_size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Grayscale:
    """A file's bytes -> gray values, a JPEG at the smallest scale not below ``min_size`` (height, width)."""
    if not data.startswith(b"\xff\xd8\xff") or data[128:132] == b"DICM":
        return pillow.decode(data, min_size, max_pixels)
    header = jpeg.read_header(data)
    check_size(header.height, header.width, max_pixels)
    jpeg.check_header(header, data)
    return pillow.jpeg_result(_decode(data, header, orientation.swap(min_size, header.orientation)), header)


def _decode(data: bytes, header: jpeg.Header, min_size: tuple[int, int]) -> np.ndarray:
    parts = scale_denominator(header.height, header.width, *min_size)
    color = "CMYK" if len(header.components) == 4 else "GRAY"
    try:
        pixels = simplejpeg.decode_jpeg(
            data, color, min_height=-(-header.height // parts), min_width=-(-header.width // parts)
        )
    except ValueError as error:
        raise jpeg.to_decode_error(error, data) from None
    if color == "GRAY":
        return pixels[..., 0]
    # pillow's rule takes the values as Pillow gives them, inverted
    image = Image.frombytes("CMYK", pixels.shape[1::-1], (255 - pixels).tobytes())
    return np.asarray(pillow.cmyk_to_luma(image, header.adobe))


def scale_denominator(height: int, width: int, least_height: int, least_width: int) -> int:
    """8, 4, 2 or 1: the largest by which both sides can be divided and stay at least as wanted, as Pillow's draft."""
    room = min(height // least_height, width // least_width)
    return next((parts for parts in (8, 4, 2) if room >= parts), 1)
