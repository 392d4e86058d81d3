"""The threshold of a score by a stated criterion, fitted to validation data. None of them depends on how many of the
samples are positive, so the threshold is for a clinic of another prevalence as well.

A sample is called positive at a score of at least the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from cxrflow.metrics.calibration import logit
from cxrflow.metrics.decision import Threshold

Criterion = Callable[[np.ndarray, np.ndarray], float]
"""(positive bool (n,), both values present; scores float (n,), 0 to 1) to the threshold."""


def youden_threshold(positive: np.ndarray, scores: np.ndarray) -> float:
    """The threshold at which sensitivity + specificity is greatest (Youden 1950)."""
    _require_both(positive)
    false_rate, true_rate, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    # The first point calls nothing positive, at an infinite threshold; a model worse than chance would end there.
    return _below(scores, float(thresholds[1:][np.argmax((true_rate - false_rate)[1:])]))


def balanced_threshold(positive: np.ndarray, scores: np.ndarray) -> float:
    """Where a logistic regression of the truth on the logit (Platt 1999), with both classes given the same weight, says
    0.5. All samples have a say in it, not the few beside the threshold as in Youden's, so it varies less from one
    validation set to another.

    scikit-learn's default penalty keeps it finite where the classes part wholly. For a score that does not rise with the
    truth there is no such place, and Youden's is taken.
    """
    _require_both(positive)
    fitted = LogisticRegression(class_weight="balanced").fit(logit(scores)[:, None], positive)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return float(expit(-intercept / slope)) if slope > 0 else youden_threshold(positive, scores)


def sensitivity_threshold(positive: np.ndarray, scores: np.ndarray, wanted: float) -> float:
    """The highest threshold at which at least the share ``wanted`` of the positive samples is called."""
    _require_both(positive)
    found = np.sort(scores[positive])[::-1]
    needed = math.ceil(wanted * len(found) - 1e-9)  # 0.95 * 20 is a little more than 19
    return _below(scores, float(found[max(needed, 1) - 1]))


CRITERIA: dict[str, Criterion] = {"balanced": balanced_threshold, "youden": youden_threshold}


def fit_threshold(
    truth: np.ndarray,
    scores: np.ndarray,
    positive: int | None,
    criterion: str = "balanced",
    sensitivity: float | None = None,
) -> Threshold:
    """The threshold that a run keeps: by the named criterion, or such that the wanted ``sensitivity`` is reached.

    With two labels of ``positive``'s score; with more None; for multi a list with one of each finding, from the samples
    where it is known, and None for a finding that has not both values there.
    """

    def fitted(truth: np.ndarray, scores: np.ndarray) -> float:
        if sensitivity is not None:
            return sensitivity_threshold(truth, scores, sensitivity)
        return CRITERIA[criterion](truth, scores)

    if truth.ndim == 1:
        return fitted(truth == positive, scores[:, positive]) if scores.shape[1] == 2 else None
    known = ~np.isnan(truth)
    findings = [(truth[rows, place] == 1, scores[rows, place]) for place, rows in enumerate(known.T)]
    return [fitted(*finding) if len(set(finding[0].tolist())) == 2 else None for finding in findings]


def _below(scores: np.ndarray, score: float) -> float:
    """The middle of the gap between a score and the next lower one: the same calls, and a last bit that differs on another
    machine changes none."""
    lower = scores[scores < score]
    return (score + float(lower.max())) / 2 if len(lower) else score


def _require_both(positive: np.ndarray) -> None:
    if positive.all() or not positive.any():
        raise ValueError(f"expected both values in positive, got {len(positive)} times {bool(positive.any())}")
