"""From scores to predicted labels."""

from __future__ import annotations

import numpy as np

Threshold = float | list[float | None] | None
"""With two labels of the positive label's score; for multi one for each finding; with more than two labels None."""


def predicted(scores: np.ndarray, positive: int | None, threshold: Threshold) -> np.ndarray:
    """The predicted labels of scores (n, K).

    int (n,): with two labels ``positive`` where its score is at least the threshold; with more, the label with the
    highest score. bool (n, K) if ``threshold`` is a list: which findings are predicted; a threshold of None there means
    0.5.
    """
    if isinstance(threshold, list):
        return scores >= np.array([0.5 if value is None else value for value in threshold])
    if scores.shape[1] != 2 or threshold is None:
        return scores.argmax(axis=1)
    assert positive is not None
    return np.where(scores[:, positive] >= threshold, positive, 1 - positive)
