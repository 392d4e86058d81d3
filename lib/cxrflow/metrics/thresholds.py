"""Rules that choose the threshold of a score on validation data.

A sample is predicted positive if its score is at least the threshold. No rule depends on the prevalence in the
validation data, so a threshold also holds at another prevalence.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import expit

from cxrflow.metrics.calibration import logit
from cxrflow.metrics.decision import Threshold

Criterion = Callable[[np.ndarray, np.ndarray], float]
"""From positive, bool (n,) with both values present, and scores, float (n,) from 0 to 1, to the threshold."""


def youden_threshold(positive: np.ndarray, scores: np.ndarray) -> float:
    """The threshold that maximises sensitivity + specificity (Youden 1950)."""
    from sklearn.metrics import roc_curve  # takes a second, so not when a worker starts

    _require_both(positive)
    false_rate, true_rate, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    # Skip the first point, an infinite threshold: a model worse than chance would choose it.
    return _below(scores, float(thresholds[1:][np.argmax((true_rate - false_rate)[1:])]))


def balanced_threshold(positive: np.ndarray, scores: np.ndarray) -> float:
    """The score at which a logistic regression on the logit (Platt 1999), with balanced classes, gives 0.5.

    It depends on all samples and not only on those near the threshold, so it varies less between validation sets than
    Youden's. The default penalty of scikit-learn keeps it finite where the classes are separated completely. If the
    score does not increase with the label, the result is Youden's threshold.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second, so not when a worker starts

    _require_both(positive)
    fitted = LogisticRegression(class_weight="balanced").fit(logit(scores)[:, None], positive)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return float(expit(-intercept / slope)) if slope > 0 else youden_threshold(positive, scores)


def sensitivity_threshold(positive: np.ndarray, scores: np.ndarray, sensitivity: float) -> float:
    """The highest threshold that reaches the sensitivity."""
    _require_both(positive)
    found = np.sort(scores[positive])[::-1]
    needed = math.ceil(sensitivity * len(found) - 1e-9)  # as floats, 0.95 * 20 is a little more than 19
    return _below(scores, float(found[max(needed, 1) - 1]))


CRITERIA: dict[str, Criterion] = {"balanced": balanced_threshold, "youden": youden_threshold}


def fit_threshold(
    truth: np.ndarray,
    scores: np.ndarray,
    positive: int | None,
    criterion: str = "balanced",
    sensitivity: float | None = None,
) -> Threshold:
    """The threshold of a run, by the named criterion or for a ``sensitivity``.

    With two labels, of the positive label's score; with more, None. For multi a list, one for each finding over the
    samples where it is known, and None for a finding that is not both present and absent there.
    """

    def fitted(truth: np.ndarray, scores: np.ndarray) -> float:
        if sensitivity is not None:
            return sensitivity_threshold(truth, scores, sensitivity)
        return CRITERIA[criterion](truth, scores)

    if truth.ndim == 1:
        return fitted(truth == positive, scores[:, positive]) if scores.shape[1] == 2 else None
    known = ~np.isnan(truth)
    findings = [(truth[rows, index] == 1, scores[rows, index]) for index, rows in enumerate(known.T)]
    return [fitted(*finding) if len(set(finding[0].tolist())) == 2 else None for finding in findings]


def _below(scores: np.ndarray, score: float) -> float:
    """The middle between a score and the next lower one.

    The predictions are the same, and rounding differences on another machine do not change them.
    """
    lower = scores[scores < score]
    return (score + float(lower.max())) / 2 if len(lower) else score


def _require_both(positive: np.ndarray) -> None:
    if positive.all() or not positive.any():
        raise ValueError(f"expected positive and negative samples, got {len(positive)} times {bool(positive.any())}")
