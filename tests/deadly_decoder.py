"""A user's decoder that one file kills: what test_ingest.py hands to --decoder."""

import os
import signal

from cxrflow.images import Grayscale, Recipe, decode_image


def decode(data: bytes, at_least: tuple[int, int]) -> Grayscale:
    if data == b"deadly":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Grayscale(pixels=decode_image(data, Recipe(*at_least)).pixels, verified=True)
