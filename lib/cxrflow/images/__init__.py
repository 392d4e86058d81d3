"""From a file's bytes to a grayscale image: one file a decoder, chosen by name. No Spark, no Keras."""

from __future__ import annotations

from cxrflow.images.decoded import REASONS, Decoded, Unreadable
from cxrflow.images.pillow import decode as decode_with_pillow

DECODERS = {"pillow": decode_with_pillow}

__all__ = ["DECODERS", "REASONS", "Decoded", "Unreadable"]
