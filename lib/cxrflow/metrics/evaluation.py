"""Everything that is said of scores whose truth is known."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

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
    """Everything that evaluate.py reports of a set of samples, as plain data for JSON; what has no value is None.

    ``truth``: int (n,), or float (n, K) for multi; ``scores``: float (n, K); ``patients``: any (n,); ``prevalence``: a clinic's
    share of each label, for predictive values there. Always there: ``n``, ``patients``, ``labels``, ``auc`` and its interval.
    With two labels the figures of ``OneVsRest.figures`` about the positive one; otherwise those of each label in ``per_label``,
    and their means in ``macro``.
    """
    called = predicted(scores, positive, threshold)
    asked = binary_problems(truth, scores, called, patients, labels, positive)
    resampled = Resamples(patients, bootstrap, seed).of(
        lambda weights: {
            (label, name): value for label, question in asked.items() for name, value in question(weights).items()
        }
    )
    shares = dict(zip(labels, prevalence or [None] * len(labels), strict=True))
    each = {
        label: question.figures(
            {name: resampled[label, name] for other, name in resampled if other == label}, shares[label]
        )
        for label, question in asked.items()
    }
    figures: dict = {"n": len(truth), "patients": len(np.unique(patients)), "labels": labels}
    if truth.ndim == 2:
        macro = _means(asked, resampled)
        return {
            **figures,
            "auc": macro["auc"],
            "auc_interval": macro["auc_interval"],
            "macro": macro,
            "thresholds": dict(zip(labels, threshold, strict=True)),
            "per_label": each,
        }
    figures["confusion"] = confusion_matrix(truth, called, labels=range(len(labels))).tolist()
    if len(labels) == 2:
        return {**figures, "positive_label": labels[positive], "threshold": threshold, **each[labels[positive]]}
    macro = _means(asked, resampled)
    return {
        **figures,
        **_of_the_highest(truth, scores, called, patients, bootstrap, seed),
        "auc": macro["auc"],
        "auc_interval": macro["auc_interval"],
        "macro": macro,
        "per_label": each,
    }


def binary_problems(
    truth: np.ndarray,
    scores: np.ndarray,
    called: np.ndarray,
    patients: np.ndarray,
    labels: list[str],
    positive: int | None,
) -> dict[str, OneVsRest]:
    """What is asked: of two labels about the positive one, of more about each against the rest, of several findings about
    each where it is known."""
    if truth.ndim == 2:
        return {
            label: OneVsRest(
                truth[:, place] == 1, scores[:, place], called[:, place], patients, ~np.isnan(truth[:, place])
            )
            for place, label in enumerate(labels)
        }
    places = [positive] if len(labels) == 2 else range(len(labels))
    return {labels[place]: OneVsRest(truth == place, scores[:, place], called == place, patients) for place in places}


def calibration_errors(
    truth: np.ndarray, scores: np.ndarray, labels: list[str], positive: int | None
) -> dict[str, float | None]:
    """The expected calibration errors that ``evaluate_scores`` reports, by label: of two labels the positive one's, of more that of the
    called one, by the name ``called``, of several findings each one's, None where nothing is known of it."""
    if truth.ndim == 2:
        return {
            label: ece(truth[rows, place] == 1, scores[rows, place]) if rows.any() else None
            for place, (label, rows) in enumerate(zip(labels, (~np.isnan(truth)).T, strict=True))
        }
    if len(labels) > 2:
        return {"predicted": ece(truth == scores.argmax(axis=1), scores.max(axis=1))}
    return {labels[positive]: ece(truth == positive, scores[:, positive])}


def _means(asked: dict[str, OneVsRest], resampled: dict[tuple[str, str], np.ndarray]) -> dict:
    """The means over labels, each label counting the same, with bootstrap intervals, and over how many (``auc_labels``). Labels
    whose figure has no value, such as a finding that is nowhere present, are left out; so they are in each resample, where a
    rare finding may not be drawn."""
    means: dict = {}
    for name in MEANS:
        of = [label for label, question in asked.items() if question.values[name] is not None]
        means[name] = float(np.mean([asked[label].values[name] for label in of])) if of else None
        samples = mean_of([resampled[label, name] for label in of]) if of else np.zeros(0)
        means[f"{name}_interval"] = logit_interval(means[name], samples) if name == "auc" else percentiles(samples)
        means[f"{name}_labels"] = len(of)
    return means


def _of_the_highest(
    truth: np.ndarray, scores: np.ndarray, called: np.ndarray, patients: np.ndarray, bootstrap: int, seed: int
) -> dict:
    """Of more than two labels: how often the label of the highest score is right, and whether that score says so."""
    question = OneVsRest(called == truth, scores.max(axis=1), np.ones(len(truth), bool), patients)
    figures = question.figures(Resamples(patients, bootstrap, seed).of(question))
    return {name: figures[name] for name in ("accuracy", "accuracy_interval", "calibration")}
