"""From scores to a call."""

from __future__ import annotations

import numpy as np

NORMAL_NAMES = {"normal", "negative", "healthy", "no finding", "no_finding", "nofinding", "0"}
NO_FINDING = "No Finding"

Threshold = float | list[float | None] | None
"""Of the positive label's score with two labels, of each finding's with several an image, None with more than two labels."""


def positive_index(labels: list[str]) -> int:
    """The label that sensitivity is about: the last one that is not called normal or the like."""
    findings = [place for place, label in enumerate(labels) if label.strip().lower() not in NORMAL_NAMES]
    return findings[-1] if findings else len(labels) - 1


def predicted(scores: np.ndarray, positive: int, threshold: Threshold) -> np.ndarray:
    """int (n,): the label that each row of scores stands for. With two labels, ``positive`` where its score is at
    least the threshold; with more, the label of the highest score.

    With a threshold for each of several findings bool (n, K): which are called; one without a threshold is at 0.5.
    """
    if isinstance(threshold, list):
        return scores >= np.array([0.5 if value is None else value for value in threshold])
    if scores.shape[1] != 2 or threshold is None:
        return scores.argmax(axis=1)
    return np.where(scores[:, positive] >= threshold, positive, 1 - positive)


def named(called: np.ndarray, labels: list[str]) -> list[str]:
    """What was ``predicted`` in words, (n,): the label, or of several findings those that are called, joined by ``|``."""
    if called.ndim == 1:
        return [labels[place] for place in called]
    return ["|".join(label for label, here in zip(labels, row, strict=True) if here) or NO_FINDING for row in called]
