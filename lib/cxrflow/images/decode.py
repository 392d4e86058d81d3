"""decode_image: the one way from a file's bytes to the pixels of a table."""

from __future__ import annotations

import functools
import inspect

import numpy as np

from cxrflow.images.bit_depth import to_uint8
from cxrflow.images.decode_result import DecodedImage, DecodeError, Grayscale, join_notes
from cxrflow.images.decoders import find_decoder, pillow
from cxrflow.images.formats import check_size, sniff
from cxrflow.images.recipe import Recipe
from cxrflow.images.resize import RESIZES


def decode_image(data: bytes, recipe: Recipe) -> DecodedImage:
    """A file's bytes -> uint8 (recipe.height, recipe.width).

    Raises DecodeError with the reason and the decoder's words; nothing is half decoded or filled up in silence.
    An image whose decoding needs more memory than there is counts as too large.
    """
    if not data:
        raise DecodeError("empty")
    data, kind = bytes(data), sniff(data)
    try:
        gray = _run(recipe, data, kind)
    except MemoryError as error:
        raise DecodeError("too_large", f"not enough memory to decode it ({error}); see --worker-memory") from error
    height, width = gray.full_size or gray.pixels.shape
    check_size(height, width, recipe.max_pixels)
    pixels, scaled = to_uint8(gray.pixels, gray.value_range)
    return DecodedImage(
        RESIZES[recipe.resize](pixels, recipe.height, recipe.width),
        height,
        width,
        kind,
        gray.bits or gray.pixels.dtype.itemsize * 8,
        join_notes(gray.note, scaled),
    )


def _run(recipe: Recipe, data: bytes, kind: str) -> Grayscale:
    decoder, min_size = find_decoder(recipe.decoder), (recipe.height, recipe.width)
    if accepts_max_pixels(decoder):
        gray = _run_decoder(decoder, data, min_size, recipe.max_pixels)
    else:
        _check_declared_size(data, kind, recipe.max_pixels)
        gray = _run_decoder(decoder, data, min_size)
    _check_contract(gray, recipe.decoder)
    if not gray.verified:
        _check_damage(data, kind, recipe.max_pixels)
    return gray


@functools.cache
def accepts_max_pixels(decoder) -> bool:
    try:
        return "max_pixels" in inspect.signature(decoder).parameters
    except ValueError:  # a function written in C may not say
        return False


def _run_decoder(decoder, *arguments) -> Grayscale:
    try:
        return decoder(*arguments)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # a user's decoder may raise anything; the file is what is known to be at hand
        raise DecodeError("corrupt", f"{type(error).__name__}: {error}") from error


def _check_contract(gray: Grayscale, name: str) -> None:
    """Raise if a decoder does not keep its contract."""
    if not isinstance(gray, Grayscale):
        raise _contract_error(name, f"Grayscale. Received: {type(gray).__name__}")
    pixels = gray.pixels
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.size == 0:
        shape = getattr(pixels, "shape", type(pixels).__name__)
        raise _contract_error(name, f"pixels as a NumPy array (height, width), not empty. Received: {shape}")
    if pixels.dtype.kind not in "iuf":
        raise _contract_error(name, f"pixels as integers or floats. Received: {pixels.dtype}")


def _contract_error(name: str, expected: str) -> DecodeError:
    return DecodeError("corrupt", f"decoder {name!r} must return {expected}")


def _check_declared_size(data: bytes, kind: str, max_pixels: int) -> None:
    """For a decoder that does not know the limit; a file that Pillow cannot open is left to the decoder."""
    if kind in pillow.OPENERS:
        try:
            pillow.open_image(data, kind, max_pixels).close()
        except DecodeError as refused:
            if refused.reason == "too_large":
                raise
        except Exception:
            pass


def _check_damage(data: bytes, kind: str, max_pixels: int) -> None:
    """The format's own checks, for a decoder that does not vouch for the data."""
    if kind in pillow.OPENERS:
        try:
            with pillow.open_image(data, kind, max_pixels) as image:
                pillow.check_content(image, data)
        except DecodeError as refused:
            if refused.reason != "unsupported":  # by Pillow, which did not have to read it
                raise
        except Exception as error:
            if (refused := pillow.to_decode_error(error)).reason != "unsupported":
                raise refused from error
