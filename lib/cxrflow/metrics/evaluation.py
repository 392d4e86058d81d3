"""All metrics of scores with known labels."""

from __future__ import annotations

import numpy as np

from cxrflow.metrics.calibration import ece
from cxrflow.metrics.decision import Threshold, predicted
from cxrflow.metrics.intervals import Resamples, logit_interval, mean_of, percentiles
from cxrflow.metrics.one_vs_rest import OneVsRest

MEANS = ("auc", "average_precision", "sensitivity", "specificity")


def evaluate_scores(
    truth: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    labels: list[str],
    positive: int | None,
    threshold: Threshold,
    bootstrap: int = 1000,
    seed: int = 0,
    prevalence: tuple[float, ...] | None = None,
) -> dict:
    """All figures of a set of samples as plain data for JSON; a figure without a value is None.

    Args:
        truth: int (n,), or float (n, K) for multi.
        scores: float (n, K).
        patients: any (n,), the patient of each sample.
        labels: K names.
        positive: index of the positive label; needed with two labels.
        threshold: what ``predicted`` takes.
        bootstrap: number of resamples.
        seed: of the resamples.
        prevalence: share of each label in another clinic, for predictive values there.

    Returns:
        Always ``n``, ``patients``, ``labels``, ``auc`` and ``auc_interval``. With two labels also the figures of
        ``OneVsRest.figures`` for the positive label; otherwise those of each label in ``per_label``, and their means in
        ``macro``.
    """
    labels_predicted = predicted(scores, positive, threshold)
    problems = binary_problems(truth, scores, labels_predicted, patients, labels, positive)
    resampled = Resamples(patients, bootstrap, seed).of(
        lambda weights: {
            (label, name): value for label, problem in problems.items() for name, value in problem(weights).items()
        }
    )
    shares = dict(zip(labels, prevalence or [None] * len(labels), strict=True))
    per_label = {
        label: problem.figures(
            {name: resampled[label, name] for other, name in resampled if other == label}, shares[label]
        )
        for label, problem in problems.items()
    }
    figures: dict = {"n": len(truth), "patients": len(np.unique(patients)), "labels": labels}
    if isinstance(threshold, list):
        macro = _means(problems, resampled)
        return {
            **figures,
            "auc": macro["auc"],
            "auc_interval": macro["auc_interval"],
            "macro": macro,
            "thresholds": dict(zip(labels, threshold, strict=True)),
            "per_label": per_label,
        }
    figures["confusion"] = _confusion(truth, labels_predicted, len(labels)).tolist()
    if len(labels) == 2:
        assert positive is not None
        return {**figures, "positive_label": labels[positive], "threshold": threshold, **per_label[labels[positive]]}
    macro = _means(problems, resampled)
    return {
        **figures,
        **_of_the_highest(truth, scores, labels_predicted, patients, bootstrap, seed),
        "auc": macro["auc"],
        "auc_interval": macro["auc_interval"],
        "macro": macro,
        "per_label": per_label,
    }


def _confusion(truth: np.ndarray, labels_predicted: np.ndarray, labels: int) -> np.ndarray:
    """How many samples of each label (row) got each label (column): int (labels, labels), from int (n,) indices."""
    return np.bincount(truth * labels + labels_predicted, minlength=labels**2).reshape(labels, labels)


def binary_problems(
    truth: np.ndarray,
    scores: np.ndarray,
    labels_predicted: np.ndarray,
    patients: np.ndarray,
    labels: list[str],
    positive: int | None,
) -> dict[str, OneVsRest]:
    """The binary problems that an evaluation consists of, by label.

    With two labels, the positive one; with more, each against the rest; for multi, each finding over the samples where
    it is known.
    """
    if truth.ndim == 2:
        return {
            label: OneVsRest(
                truth[:, index] == 1, scores[:, index], labels_predicted[:, index], patients, ~np.isnan(truth[:, index])
            )
            for index, label in enumerate(labels)
        }
    indices = list(range(len(labels)))
    if len(labels) == 2:
        assert positive is not None
        indices = [positive]
    return {
        labels[index]: OneVsRest(truth == index, scores[:, index], labels_predicted == index, patients)
        for index in indices
    }


def calibration_errors(
    truth: np.ndarray, scores: np.ndarray, labels: list[str], positive: int | None
) -> dict[str, float | None]:
    """The expected calibration errors of ``evaluate_scores`` without anything else.

    With two labels that of the positive one, by its name; with more that of the predicted label, as ``predicted``; for
    multi that of each finding, None where no sample is known.
    """
    if truth.ndim == 2:
        return {
            label: ece(truth[rows, index] == 1, scores[rows, index]) if rows.any() else None
            for index, (label, rows) in enumerate(zip(labels, (~np.isnan(truth)).T, strict=True))
        }
    if len(labels) > 2:
        return {"predicted": ece(truth == scores.argmax(axis=1), scores.max(axis=1))}
    assert positive is not None
    return {labels[positive]: ece(truth == positive, scores[:, positive])}


def _means(problems: dict[str, OneVsRest], resampled: dict[tuple[str, str], np.ndarray]) -> dict:
    """Unweighted means over labels with bootstrap intervals, and over how many labels (``auc_labels`` and so on).

    Labels without the figure, such as a finding that no sample has, are left out. The same holds in each resample,
    where a rare finding may be missing.
    """
    means: dict = {}
    for name in MEANS:
        values = {label: value for label, problem in problems.items() if (value := problem.values[name]) is not None}
        means[name] = float(np.mean(list(values.values()))) if values else None
        samples = mean_of([resampled[label, name] for label in values]) if values else np.zeros(0)
        means[f"{name}_interval"] = logit_interval(means[name], samples) if name == "auc" else percentiles(samples)
        means[f"{name}_labels"] = len(values)
    return means


def _of_the_highest(
    truth: np.ndarray,
    scores: np.ndarray,
    labels_predicted: np.ndarray,
    patients: np.ndarray,
    bootstrap: int,
    seed: int,
) -> dict:
    """Accuracy of more than two labels, and the calibration of the highest score."""
    always = np.ones(len(truth), bool)
    problem = OneVsRest(labels_predicted == truth, scores.max(axis=1), always, patients)
    figures = problem.figures(Resamples(patients, bootstrap, seed).of(problem))
    return {name: figures[name] for name in ("accuracy", "accuracy_interval", "calibration")}
