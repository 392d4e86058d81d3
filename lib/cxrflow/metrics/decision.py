"""From scores to a call."""

from __future__ import annotations

import numpy as np

from cxrflow.base.findings import is_normal

Threshold = float | list[float | None] | None
"""Of the positive label's score with two labels, of each finding's with several an image, None with more than two labels."""


def positive_index(labels: list[str]) -> int:
    """The label that sensitivity is about: the last one that is not called normal or the like."""
    findings = [place for place, label in enumerate(labels) if not is_normal(label)]
    return findings[-1] if findings else len(labels) - 1


def predicted(scores: np.ndarray, positive: int | None, threshold: Threshold) -> np.ndarray:
    """int (n,): the label that each row of scores stands for. With two labels, ``positive`` where its score is at
    least the threshold; with more, the label of the highest score.

    With a threshold for each of several findings bool (n, K): which are called; one without a threshold is at 0.5.
    """
    if isinstance(threshold, list):
        return scores >= np.array([0.5 if value is None else value for value in threshold])
    if scores.shape[1] != 2 or threshold is None:
        return scores.argmax(axis=1)
    return np.where(scores[:, positive] >= threshold, positive, 1 - positive)
