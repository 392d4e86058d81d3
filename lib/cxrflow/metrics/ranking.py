"""Figures of how well scores rank samples, for many resamples at a time with one sort."""

from __future__ import annotations

import numpy as np


class Ranking:
    """Samples sorted by score.

    Every method takes weights, float (b, n): how often each sample counts. Figures are NaN where the weights leave no
    positive or no negative sample. Time grows with b times n: one to two seconds for 1,000 resamples of 20,000 samples.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray):
        """``positive``: bool (n,); ``scores``: float (n,), higher for positive samples."""
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._positive = positive[self._order]
        # Samples with equal scores share a threshold; each group ends where the next score is lower.
        self._ends = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True)) if len(scores) else np.zeros(0, int)
        self.thresholds = ordered[self._ends]
        """float (G,): the distinct scores, the highest first."""

    def rates(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(sensitivity, false positive rate, precision) at each threshold, float (b, G) each."""
        ordered = weights[:, self._order]
        predicted = np.cumsum(ordered, axis=1)[:, self._ends]
        true = np.cumsum(ordered * self._positive, axis=1)[:, self._ends]
        false = predicted - true
        with np.errstate(invalid="ignore", divide="ignore"):
            return true / true[:, -1:], false / false[:, -1:], true / predicted

    def figures(self, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        """float (b, 2 + 2 L): AUC, average precision, sensitivity at L specificities, specificity at L
        sensitivities."""
        if not len(self._ends):
            return np.full((len(weights), 2 + 2 * len(levels)), np.nan)
        sensitivity, false_rate, precision = self.rates(weights)
        gained = np.diff(sensitivity, axis=1, prepend=0)
        area = (np.diff(false_rate, axis=1, prepend=0) * (sensitivity - gained / 2)).sum(axis=1)
        # Before the first drawn sample there is no precision, and no gain.
        average = (gained * np.nan_to_num(precision)).sum(axis=1)
        sensitivities = [_highest(sensitivity, false_rate <= 1 - level + 1e-9) for level in levels]
        specificities = [_highest(1 - false_rate, sensitivity >= level - 1e-9) for level in levels]
        # Rounded, so that an AUC of 1 is exactly 1 in any order of summation.
        figures = np.stack([area, average, *sensitivities, *specificities], axis=1).round(12)
        return np.where(np.isnan(area)[:, None], np.nan, figures)


def _highest(values: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The highest allowed value (b,); 0 if none is allowed, as with a threshold above all scores."""
    return np.where(allowed, values, 0).max(axis=1)


def auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve; with more than two labels, or for multi, the mean over labels of one against the rest.

    None if a label has no sample or all samples. For multi, such findings are left out of the mean.
    """
    if truth.ndim == 2:
        known = (~np.isnan(truth)).T
        areas = [_auc(truth[rows, index] == 1, scores[rows, index]) for index, rows in enumerate(known)]
        found = [area for area in areas if area is not None]
        return float(np.mean(found)) if found else None
    if scores.shape[1] == 2:
        return _auc(truth == 1, scores[:, 1])
    areas = [_auc(truth == index, scores[:, index]) for index in range(scores.shape[1])]
    return None if None in areas else float(np.mean([area for area in areas if area is not None]))


def _auc(positive: np.ndarray, scores: np.ndarray) -> float | None:
    if positive.all() or not positive.any():
        return None
    return float(Ranking(positive, scores).figures(np.ones((1, len(scores))), ())[0, 0])
