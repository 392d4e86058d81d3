"""From a file's bytes to a grayscale image of the table's size: decoders chosen by name. No Spark, no Keras.

Reading order: ``decode`` (the way through), ``decoders`` (the contract), ``values`` (deep values to 8 bits),
``checks`` (damage that lenient decoders pass over).
"""

from __future__ import annotations

from cxrflow.images.decode import decode_image
from cxrflow.images.decode_result import REASONS, DecodedImage, DecodeError, Grayscale
from cxrflow.images.decoders import DECODERS, find_decoder
from cxrflow.images.recipe import DEFAULT_DECODER, Recipe

__all__ = [
    "DECODERS",
    "DEFAULT_DECODER",
    "REASONS",
    "DecodedImage",
    "Grayscale",
    "Recipe",
    "DecodeError",
    "decode_image",
    "find_decoder",
]
