"""How good scores are, each rate with its 95 % interval. NumPy, SciPy and scikit-learn; no Spark, no Keras.

Letters: n samples, K labels.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from cxrflow.findings import is_normal


Threshold = float | list[float | None] | None
"""Of the positive label's score with two labels, of each finding's with several an image, None with more than two labels."""


def positive_index(labels: list[str]) -> int:
    """The label that sensitivity is about: the last one that is not called normal or the like."""
    findings = [place for place, label in enumerate(labels) if not is_normal(label)]
    return findings[-1] if findings else len(labels) - 1


def auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Area under the ROC curve; with more than two labels the mean over labels of one against the rest.

    ``truth``: int (n,), places of labels; ``scores``: float (n, K). None where a label has no sample or all samples.
    For several findings ``truth`` is float (n, K), NaN where it is not known: the mean over those that have both values.
    """
    if truth.ndim == 2:
        areas = [_auc(truth[rows, place] == 1, scores[rows, place], None if weights is None else weights[rows])
                 for place, rows in enumerate(~np.isnan(truth).T)]
        areas = [area for area in areas if area is not None]
        return float(np.mean(areas)) if areas else None
    if scores.shape[1] == 2:
        return _auc(truth == 1, scores[:, 1], weights)
    areas = [_auc(truth == place, scores[:, place], weights) for place in range(scores.shape[1])]
    return None if None in areas else float(np.mean(areas))


def _auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    counted = positive if weights is None else positive[weights > 0]
    if len(counted) == 0 or counted.all() or not counted.any():
        return None
    return float(roc_auc_score(positive, scores, sample_weight=weights))


def auc_interval(truth: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int, seed: int = 0):
    """95 % percentile interval of the AUC, by bootstrap over patients (Efron and Tibshirani 1993): images of one
    patient are not independent, so patients are drawn with replacement, each with all of its images.

    Returns [low, high], or None where the AUC has no value in a resample, which means too few patients.
    """
    _, member = np.unique(patients, return_inverse=True)
    count = member.max() + 1
    random = np.random.default_rng(seed)
    areas = []
    for _ in range(resamples):
        drawn = np.bincount(random.integers(0, count, count), minlength=count)
        areas.append(auc(truth, scores, drawn[member].astype(float)))
    if None in areas:
        return None
    return [float(limit) for limit in np.percentile(areas, [2.5, 97.5])]


def wilson(successes: int, trials: int) -> list[float] | None:
    """95 % interval of a rate (Wilson 1927): [low, high], or None for no trials."""
    if trials == 0:
        return None
    interval = binomtest(int(successes), int(trials)).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def youden_threshold(positive: np.ndarray, scores: np.ndarray) -> float:
    """The threshold at which sensitivity + specificity is greatest (Youden 1950), in the middle of the gap between
    the two neighbouring scores. A sample is called positive at a score of at least the threshold.

    ``positive``: bool (n,), both values present; ``scores``: float (n,), 0 to 1.
    """
    if positive.all() or not positive.any():
        raise ValueError(f"expected both values in positive, got {len(positive)} times {bool(positive.any())}")
    false_rate, true_rate, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    # The first point calls nothing positive, at an infinite threshold; a model worse than chance would end there.
    best = float(thresholds[1:][np.argmax((true_rate - false_rate)[1:])])
    below = scores[scores < best]
    return (best + float(below.max())) / 2 if len(below) else best


def fit_threshold(truth: np.ndarray, scores: np.ndarray, positive: int | None) -> Threshold:
    """Youden's threshold of ``positive``'s score; None with more than two labels; of several findings one each from the
    samples where it is known, or None where these have not both values."""
    if truth.ndim == 1:
        return youden_threshold(truth == positive, scores[:, positive]) if scores.shape[1] == 2 else None
    findings = [(truth[rows, place] == 1, scores[rows, place]) for place, rows in enumerate(~np.isnan(truth).T)]
    return [youden_threshold(*finding) if len(set(finding[0].tolist())) == 2 else None for finding in findings]


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


def judge(truth: np.ndarray, scores: np.ndarray, patients: np.ndarray, labels: list[str], positive: int | None,
          threshold: Threshold, bootstrap: int = 1000, seed: int = 0) -> dict:
    """Everything that evaluate.py reports, as plain data for JSON.

    ``truth``: int (n,), or float (n, K) of several findings; ``scores``: float (n, K); ``patients``: any (n,). Rates whose
    denominator is 0 are None.
    """
    called = predicted(scores, positive, threshold)
    if truth.ndim == 2:
        area = auc(truth, scores)
        return {"n": len(truth), "patients": len(np.unique(patients)), "labels": labels, "auc": area,
                "auc_interval": None if area is None else auc_interval(truth, scores, patients, bootstrap, seed),
                "thresholds": dict(zip(labels, threshold, strict=True)), "per_label": {
                    label: _one_finding(truth[rows, place] == 1, scores[rows, place], called[rows, place])
                    for label, place, rows in zip(labels, range(len(labels)), ~np.isnan(truth).T, strict=True)}}
    matrix = confusion_matrix(truth, called, labels=range(len(labels)))
    per_label = {label: _one_label(matrix, place) for place, label in enumerate(labels)}
    correct = int(np.trace(matrix))
    area = auc(truth, scores)
    figures = {
        "n": len(truth), "patients": len(np.unique(patients)),
        "accuracy": correct / len(truth), "accuracy_interval": wilson(correct, len(truth)),
        "auc": area, "auc_interval": None if area is None else auc_interval(truth, scores, patients, bootstrap, seed),
    }
    if len(labels) == 2:
        figures |= {**per_label[labels[positive]], "positive_label": labels[positive], "threshold": threshold}
    return {**figures, "labels": labels, "confusion": matrix.tolist(), "per_label": per_label}


def _one_finding(positive: np.ndarray, scores: np.ndarray, called: np.ndarray) -> dict:
    """Of the samples where it is known: how many they are, and how well it is found. bool, float and bool (n,)."""
    matrix = confusion_matrix(positive, called, labels=[False, True])
    return {"n": len(positive), "positives": int(positive.sum()), "auc": _auc(positive, scores), **_one_label(matrix, 1)}


def _one_label(matrix: np.ndarray, place: int) -> dict:
    """Sensitivity and specificity of a label against the rest. ``matrix``: int (K, K), rows are the truth."""
    hits, with_it = matrix[place, place], matrix[place].sum()
    without = matrix.sum() - with_it
    rejected = without - (matrix[:, place].sum() - hits)
    return {
        "sensitivity": float(hits / with_it) if with_it else None, "sensitivity_interval": wilson(hits, with_it),
        "specificity": float(rejected / without) if without else None,
        "specificity_interval": wilson(rejected, without),
    }
