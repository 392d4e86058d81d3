"""Which predictions were correct, and how confident the model was of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.metrics.calibration import logit
from cxrflow.metrics.decision import Threshold, predicted


@dataclass(frozen=True)
class Outcomes:
    """m predictions for labelled samples: one per sample or, for multi-label samples, one for each known finding."""

    rows: np.ndarray
    """int (m,): index of the sample."""
    label_indices: np.ndarray
    """int (m,): the label in question. With two labels the positive one; with more the predicted one."""
    correct: np.ndarray
    """bool (m,)"""
    confidence: np.ndarray
    """float (m,): see the function ``confidence``."""

    def most_confident(self, which: np.ndarray, count: int) -> np.ndarray:
        """int: indices of at most ``count`` outcomes in the mask ``which``, bool (m,), the most confident first.

        The most confident wrong predictions also reveal wrong labels and shortcuts.
        """
        return np.flatnonzero(which)[np.argsort(-self.confidence[which], kind="stable")][:count]

    def least_confident(self, count: int) -> np.ndarray:
        """int: indices of at most ``count`` outcomes, the least confident first."""
        return np.argsort(self.confidence, kind="stable")[:count]


def confidence(scores: np.ndarray, positive: int | None, threshold: Threshold) -> np.ndarray:
    """float (n, K): the distance of each score from the other decision.

    With two labels and for multi-label scores it is the distance from the threshold in logits. With more than two
    labels it is the difference of the logarithms of the two highest scores. Single-label samples have equal columns.
    """
    if isinstance(threshold, list):
        return np.abs(logit(scores) - logit(np.array([0.5 if value is None else value for value in threshold])))
    if scores.shape[1] == 2:
        distance = np.abs(logit(scores[:, positive]) - logit(np.array(0.5 if threshold is None else threshold)))
    else:
        highest = np.log(np.maximum(np.sort(scores, axis=1), 1e-30))
        distance = highest[:, -1] - highest[:, -2]
    return np.repeat(distance[:, None], scores.shape[1], axis=1)


def find_outcomes(truth: np.ndarray, scores: np.ndarray, positive: int | None, threshold: Threshold) -> Outcomes:
    """Compare each prediction with its label. Arguments as in ``evaluate_scores``."""
    labels, distance = predicted(scores, positive, threshold), confidence(scores, positive, threshold)
    if truth.ndim == 2:
        rows, columns = np.nonzero(~np.isnan(truth))
        correct = labels[rows, columns] == (truth[rows, columns] == 1)
        return Outcomes(rows, columns, correct, distance[rows, columns])
    label_indices = labels if scores.shape[1] > 2 else np.full(len(truth), positive)
    return Outcomes(np.arange(len(truth)), label_indices, labels == truth, distance[:, 0])
