"""Import Keras without the packages that it only looks for."""

from __future__ import annotations

import sys

NOT_NEEDED = ("cv2", "matplotlib", "pandas", "sklearn")
"""Keras imports OpenCV and matplotlib to draw, pandas to accept data frames, and scikit-learn for its wrappers. A
worker uses none of that, and it takes a quarter to a third of the time until it can train."""


def import_keras() -> None:
    """Import Keras as if the packages in ``NOT_NEEDED`` were not installed.

    Call it in the main thread, before anything else imports Keras; other threads must not import these packages
    meanwhile. Later imports find them as usual. Raises ImportError without Keras or its backend.
    """
    hidden = [name for name in NOT_NEEDED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # so that Python raises ModuleNotFoundError for it
    try:
        import keras  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
