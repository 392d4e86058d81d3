"""decode_image: convert a file's bytes to the pixels that a table stores."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import numpy as np

from cxrflow.images.bit_depth import to_uint8
from cxrflow.images.decode_result import DecodedImage, DecodeError, Grayscale, join_notes
from cxrflow.images.decoders import DECODERS, find_decoder, pillow
from cxrflow.images.formats import check_size, sniff
from cxrflow.images.library_errors import to_decode_error
from cxrflow.images.recipe import Recipe
from cxrflow.images.render_checks import check_rendering
from cxrflow.images.resize import RESIZES


def decode_image(data: bytes, recipe: Recipe) -> DecodedImage:
    """Decode a file's bytes to uint8 pixels (recipe.height, recipe.width).

    Damaged files are refused, never filled up. An image that does not fit in memory counts as too large. If the pixels
    may be wrong, the note says so (``cxrflow.images.doubts``).

    Raises:
        DecodeError: with one of REASONS and an explanation.
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
    stored = gray.pixels if gray.stored is None else gray.stored
    doubts = check_rendering(stored, pixels) if stored is not pixels else []
    return DecodedImage(
        RESIZES[recipe.resize](pixels, recipe.height, recipe.width, gray.pixel_aspect),
        height,
        width,
        kind,
        gray.bits or gray.pixels.dtype.itemsize * 8,
        join_notes(gray.note, scaled, *doubts),
    )


def _run(recipe: Recipe, data: bytes, kind: str) -> Grayscale:
    decoder, min_size = find_decoder(recipe.decoder), (recipe.height, recipe.width)
    if accepts_max_pixels(decoder):
        gray = _run_decoder(decoder, kind, data, min_size, recipe.max_pixels)
    else:
        _check_declared_size(data, kind, recipe.max_pixels)
        gray = _run_decoder(decoder, kind, data, min_size)
    _check_contract(gray, recipe.decoder)
    if not gray.verified:
        _check_damage(data, kind, recipe.max_pixels)
    return gray


@functools.cache
def accepts_max_pixels(decoder: Callable) -> bool:
    """Whether a decoder has a parameter ``max_pixels``."""
    try:
        return "max_pixels" in inspect.signature(decoder).parameters
    except ValueError:  # functions written in C may have no signature
        return False


def _run_decoder(decoder: Callable, kind: str, *arguments) -> Grayscale:
    try:
        return decoder(*arguments)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # a custom decoder may raise anything; its author needs to see it
        if decoder in DECODERS.values():
            raise to_decode_error(error, kind) from error
        raise DecodeError("corrupt", f"{type(error).__name__}: {error}") from error


def _check_contract(gray: Grayscale, name: str) -> None:
    """Raise if a decoder's result violates the contract in ``cxrflow.images.decoders``."""
    if not isinstance(gray, Grayscale):
        raise _contract_error(name, f"Grayscale, got {type(gray).__name__}")
    pixels = gray.pixels
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.size == 0:
        shape = getattr(pixels, "shape", type(pixels).__name__)
        raise _contract_error(name, f"pixels as a NumPy array (height, width), not empty, got {shape}")
    if pixels.dtype.kind not in "iuf":
        raise _contract_error(name, f"pixels as integers or floats, got {pixels.dtype}")


def _contract_error(name: str, expected: str) -> DecodeError:
    return DecodeError("corrupt", f"decoder {name!r}: expected {expected}")


def _check_declared_size(data: bytes, kind: str, max_pixels: int) -> None:
    """Check the declared size for a decoder without ``max_pixels``. Files that Pillow cannot open pass."""
    if kind in pillow.OPENERS:
        try:
            pillow.open_image(data, kind, max_pixels).close()
        except DecodeError as refused:
            if refused.reason == "too_large":
                raise
        except Exception:
            pass


def _check_damage(data: bytes, kind: str, max_pixels: int) -> None:
    """Run the format's own checks, for a decoder that does not verify the data itself."""
    if kind in pillow.OPENERS:
        try:
            with pillow.open_image(data, kind, max_pixels) as image:
                pillow.check_content(image, data)
        except DecodeError as refused:
            if refused.reason != "unsupported":  # Pillow need not support the file: the decoder read it
                raise
        except Exception as error:
            converted = to_decode_error(error, kind)
            if converted.reason != "unsupported":
                raise converted from error
