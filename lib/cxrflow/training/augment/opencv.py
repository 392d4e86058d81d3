"""OpenCV, imported when it is needed. It runs on the caller's thread only: the network needs a worker's other cores."""

from __future__ import annotations

import functools


@functools.cache
def cv2():
    """Return the module. Raises ImportError if it is not installed, which ``find_policy`` has checked."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
