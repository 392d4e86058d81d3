"""Decode image files to 8-bit grayscale images of a table's size. Imports neither Spark nor Keras.

Reading order: ``decode`` (the entry point), ``decoders`` (the contract of a decoder), ``bit_depth`` (deep values to
8 bits), ``checks`` (damage that decoders ignore), ``doubts`` (signs that the result may be wrong).
"""

from __future__ import annotations

from cxrflow.images.decode import decode_image
from cxrflow.images.decode_result import REASONS, DecodedImage, DecodeError, Grayscale
from cxrflow.images.decoders import DECODERS, find_decoder
from cxrflow.images.doubts import DOUBTS, find_doubts
from cxrflow.images.recipe import DEFAULT_DECODER, Recipe

__all__ = [
    "DECODERS",
    "DEFAULT_DECODER",
    "DOUBTS",
    "REASONS",
    "DecodeError",
    "DecodedImage",
    "Grayscale",
    "Recipe",
    "decode_image",
    "find_decoder",
    "find_doubts",
]
