"""A user's decoder that crashes on one file, for test_ingest.py."""

import os
import signal

from cxrflow.images import Grayscale, Recipe, decode_image


def decode(data: bytes, min_size: tuple[int, int]) -> Grayscale:
    if data == b"deadly":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Grayscale(pixels=decode_image(data, Recipe(*min_size)).pixels, verified=True)
