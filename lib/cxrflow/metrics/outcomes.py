"""Which calls the model was sure of, and which of them were right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.metrics.calibration import logit
from cxrflow.metrics.decision import Threshold, predicted


@dataclass(frozen=True)
class Calls:
    """The calls of samples whose truth is known, one a sample, or for multi one for each finding that is known; m of them."""

    rows: np.ndarray
    """int (m,): the sample."""
    places: np.ndarray
    """int (m,): the label that the call is about: with two labels the positive one, with more the one that was called."""
    right: np.ndarray
    """bool (m,)"""
    sure: np.ndarray
    """float (m,): how far the score is from the other call. On the logit's scale from the threshold; with more than two labels
    from the second highest score, on a scale of logarithms."""

    def surest(self, which: np.ndarray, count: int) -> np.ndarray:
        """int: the calls, at most ``count`` of those in ``which``, bool (m,), the surest first. Wrong ones show wrong labels too,
        and shortcuts."""
        return np.flatnonzero(which)[np.argsort(-self.sure[which], kind="stable")][:count]

    def least_sure(self, count: int) -> np.ndarray:
        return np.argsort(self.sure, kind="stable")[:count]


def sureness(scores: np.ndarray, positive: int | None, threshold: Threshold) -> np.ndarray:
    """float (n, K): how sure the call about each label is; see ``Calls.sure``. With one label a sample the same in each column."""
    if isinstance(threshold, list):
        return np.abs(logit(scores) - logit(np.array([0.5 if value is None else value for value in threshold])))
    if scores.shape[1] == 2:
        sure = np.abs(logit(scores[:, positive]) - logit(np.array(0.5 if threshold is None else threshold)))
    else:
        highest = np.log(np.maximum(np.sort(scores, axis=1), 1e-30))
        sure = highest[:, -1] - highest[:, -2]
    return np.repeat(sure[:, None], scores.shape[1], axis=1)


def find_calls(truth: np.ndarray, scores: np.ndarray, positive: int | None, threshold: Threshold) -> Calls:
    called, sure = predicted(scores, positive, threshold), sureness(scores, positive, threshold)
    if truth.ndim == 2:
        rows, places = np.nonzero(~np.isnan(truth))
        return Calls(rows, places, called[rows, places] == (truth[rows, places] == 1), sure[rows, places])
    places = called if scores.shape[1] > 2 else np.full(len(truth), positive)
    return Calls(np.arange(len(truth)), places, called == truth, sure[:, 0])
