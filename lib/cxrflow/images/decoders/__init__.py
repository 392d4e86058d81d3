"""Decoders by name, and how custom decoders are found.

A decoder is a function::

    def decode(data: bytes, min_size: tuple[int, int]) -> Grayscale: ...

``data`` is a file's content and never empty. The decoder returns a ``cxrflow.images.decode_result.Grayscale``: the gray
image as a viewer shows it. It may be at a reduced scale, not below ``min_size`` (height, width), and then states the
size of the full image as ``full_size``. For values deeper than 8 bits the decoder states the values of black and white
as ``value_range``, or leaves them to the rules of ``cxrflow.images.bit_depth``. The caller resizes the image.

To refuse a file, a decoder raises ``DecodeError(reason, detail)``. Any other exception is recorded as ``corrupt`` with
its message. Unless the decoder sets ``verified``, the checks of the file's format run as well, for the formats that the
decoder ``pillow`` supports. A decoder with a third parameter ``max_pixels`` gets the limit and must refuse larger
images before decoding. For a decoder without it, the declared size of JPEG, PNG, TIFF, BMP, GIF and WebP files is
checked before the call.

A custom decoder is named as ``module:function``, or by an entry point in the group ``cxrflow.decoders``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable

from cxrflow.base.errors import UserError
from cxrflow.images.decoders import pillow, turbo

GROUP = "cxrflow.decoders"

DECODERS = {"pillow": pillow.decode, "turbo": turbo.decode}


@functools.cache
def find_decoder(name: str) -> Callable:
    """Return the decoder of this name. Raises UserError with the known names if there is none."""
    if name in DECODERS:
        return DECODERS[name]
    if ":" in name:
        return _import(name)
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name not in entries:
        known = ", ".join(sorted({*DECODERS, *entries}))
        raise UserError(f"--decoder: expected one of {known}, or module:function of your own; got {name!r}")
    return _import(f"{entries[name].module}:{entries[name].attr}")


def _import(path: str) -> Callable:
    module, _, function = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--decoder: expected module:function that can be imported, got {path!r}: {error}") from error
    if not callable(found):
        raise UserError(f"--decoder: expected a function, got {path!r}, which is a {type(found).__name__}")
    return found
