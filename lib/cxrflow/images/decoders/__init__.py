"""The decoders by name, and how a user's own is found.

A decoder is a function::

    def decode(data: bytes, min_size: tuple[int, int]) -> Grayscale: ...

``data`` are a file's bytes, never empty. It returns a ``cxrflow.images.decode_result.Grayscale``: the image in gray as a
viewer shows it, in full or at a reduced scale that is not below ``min_size`` (height, width), then with the whole
image's size as ``source``. Values deeper than 8 bits come with the values of black and white, or are left to the
rules of ``cxrflow.images.bit_depth``. Resizing to the table's size comes after it, in one place.

To refuse a file it raises ``DecodeError(reason, detail)``; any other exception is recorded as ``corrupt`` with its
words. Unless it sets ``verified``, the checks of the file's format run as well (for formats that ``pillow`` reads).
A decoder with a third parameter ``max_pixels`` is given the limit and refuses larger images before it decodes them;
for one without, the declared size of JPEG, PNG, TIFF, BMP, GIF and WebP files is checked before it is called.

A user's own is named as ``module:function``, or by the name of an entry point in the group ``cxrflow.decoders``.
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
    """The function of a decoder. Raises UserError, which lists the known names."""
    if name in DECODERS:
        return DECODERS[name]
    if ":" in name:
        return _import(name)
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name not in entries:
        known = ", ".join(sorted({*DECODERS, *entries}))
        raise UserError(f"no decoder is called {name!r}. Known: {known}; or module:function of your own")
    return _import(f"{entries[name].module}:{entries[name].attr}")


def _import(path: str) -> Callable:
    module, _, function = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"decoder {path!r} cannot be imported as module:function: {error}") from error
    if not callable(found):
        raise UserError(f"decoder {path!r} must be a function. Received: {type(found).__name__}")
    return found
