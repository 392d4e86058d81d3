"""OpenCV, loaded when it is needed, on the caller's thread alone: a worker's cores are the network's."""

from __future__ import annotations

import functools


@functools.cache
def cv2():
    """The module. Raises ImportError where opencv-python-headless is not installed, which ``find_policy`` says before."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
