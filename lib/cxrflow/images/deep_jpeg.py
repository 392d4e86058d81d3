"""JPEG that libjpeg-turbo's 8-bit decoder cannot read: lossless, and 12 bits per sample. GDCM decodes them."""

from __future__ import annotations

import numpy as np

from cxrflow.images.checks import codestream, jpeg
from cxrflow.images.checks.codestream import EXTENDED, LOSSLESS
from cxrflow.images.dcm.frame_codecs import decode_deep_jpeg
from cxrflow.images.decode_result import Grayscale, missing_codec
from cxrflow.images.luma import luma_like_pillow


def is_deep_jpeg(header: jpeg.Header) -> bool:
    """Whether a JPEG is lossless, or extended with 12 bits."""
    return len(header.components) in (1, 3) and (
        header.process == LOSSLESS or (header.process == EXTENDED and header.bits == 12)
    )


def decode(data: bytes, header: jpeg.Header) -> Grayscale:
    """Decode a JPEG for which ``is_deep_jpeg`` holds, at full scale and without its EXIF orientation.

    Raises:
        DecodeError: the file is damaged, or GDCM is not installed.
    """
    codestream.check_frame(data)
    try:
        values = decode_deep_jpeg(data)
    except ImportError as error:
        name = f"{jpeg.PROCESSES[header.process]} JPEG, {header.bits} bits"
        raise missing_codec(name, error) from error
    if values.ndim == 3:
        is_luma = header.states_color and header.components != tuple(b"RGB") and header.process == EXTENDED
        values = values[..., 0] if is_luma else luma_like_pillow(values).astype(np.uint16)
    if header.bits == 8:
        return Grayscale(pixels=values.astype(np.uint8), bits=8)
    return Grayscale(pixels=values, value_range=(0, 2**header.bits - 1) if header.bits < 16 else None, bits=header.bits)
