"""Import Keras without the packages that it only looks for."""

from __future__ import annotations

import sys

NOT_NEEDED = ("sklearn", "pandas")
"""Keras imports scikit-learn for its wrappers, and pandas to accept data frames. We use neither. On one core they take
one to three of the ten seconds until a worker can train."""


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
