"""Metrics of subgroups: a model that is good overall may fail at one hospital, or for one kind of disease."""

from __future__ import annotations

import math
import re

import numpy as np

from cxrflow.metrics.decision import Threshold, predicted
from cxrflow.metrics.evaluation import binary_problems
from cxrflow.metrics.intervals import Resamples, logit_interval, mean_of
from cxrflow.metrics.one_vs_rest import OneVsRest

MIN_SAMPLES = 10
"""A group with fewer is not considered for ``worst``."""
_RATES = ("accuracy", "sensitivity", "specificity")


def evaluate_subgroups(
    truth: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    groups: np.ndarray,
    labels: list[str],
    positive: int | None,
    threshold: Threshold,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict:
    """Figures of each group. ``groups``: text (n,); the other arguments as in ``evaluate_scores``.

    Returns ``groups``, by name, and ``worst``: the name of the group with the lowest accuracy, or for multi with the
    AUC farthest below ``auc_of_all``; None if fewer than two groups have MIN_SAMPLES samples.

    Each group has ``n``, ``patients`` and, with intervals, accuracy and with two labels sensitivity, specificity and
    AUC. A group with one label only, such as a kind of disease, has no AUC. Its samples are compared with all samples
    of the other label, and ``auc_against`` names it. For multi, ``auc`` is the mean over the ``auc_labels`` findings
    that are both present and absent in the group, and ``auc_of_all`` the mean of all samples over the same findings,
    because some findings are harder than others.
    """
    labels_predicted = predicted(scores, positive, threshold)
    resamples = Resamples(patients, bootstrap, seed)
    found = {}
    for name in sorted(set(groups.tolist()), key=_sort_key):
        inside = groups == name
        figures = {"n": int(inside.sum()), "patients": len(np.unique(patients[inside]))}
        if truth.ndim == 2:
            figures |= _mean_auc(truth, scores, labels_predicted, patients, inside, resamples)
        elif len(labels) == 2:
            assert positive is not None
            figures |= _binary(truth, scores, labels_predicted, patients, inside, labels, positive, resamples)
        else:
            always = np.ones(len(truth), bool)
            problem = OneVsRest(truth == labels_predicted, scores.max(axis=1), always, patients, inside)
            figures |= _with_intervals(problem, ("accuracy",), resamples)
        found[name] = figures
    return {"groups": found, "worst": _worst(found)}


def _sort_key(name: str) -> tuple[float, str]:
    """Sorts names that begin with a number by that number, and all others after them."""
    number = re.match(r"\d+(\.\d+)?", name)
    return float(number[0]) if number else math.inf, name


def _worst(groups: dict[str, dict]) -> str | None:
    compared: dict[str, float] = {
        name: group["accuracy"] if "accuracy" in group else group["auc"] - group["auc_of_all"]
        for name, group in groups.items()
        if group["n"] >= MIN_SAMPLES and group.get("auc_labels") != 0
    }
    return min(compared, key=lambda name: compared[name]) if len(compared) > 1 else None


def _with_intervals(problem: OneVsRest, names: tuple[str, ...], resamples: Resamples) -> dict:
    figures = problem.figures(resamples.of(problem))
    return {key: figures[key] for name in names for key in (name, f"{name}_interval")}


def _binary(
    truth: np.ndarray,
    scores: np.ndarray,
    labels_predicted: np.ndarray,
    patients: np.ndarray,
    inside: np.ndarray,
    labels: list[str],
    positive: int,
    resamples: Resamples,
) -> dict:
    is_positive, own = truth == positive, scores[:, positive]
    figures = {"positives": int(is_positive[inside].sum())}
    problem = OneVsRest(is_positive, own, labels_predicted == positive, patients, inside)
    figures |= _with_intervals(problem, _RATES, resamples)
    present = np.unique(truth[inside])
    both = len(present) == 2
    rows = inside if both else inside | (truth != present[0])
    problem = OneVsRest(is_positive, own, labels_predicted == positive, patients, rows)
    figures |= _with_intervals(problem, ("auc",), resamples)
    return {**figures, "auc_against": None if both else f"all {labels[1 - int(present[0])]}"}


def _mean_auc(
    truth: np.ndarray,
    scores: np.ndarray,
    labels_predicted: np.ndarray,
    patients: np.ndarray,
    inside: np.ndarray,
    resamples: Resamples,
) -> dict:
    def problems(states: np.ndarray) -> list[OneVsRest]:
        names = [str(index) for index in range(truth.shape[1])]
        return list(binary_problems(states, scores, labels_predicted, patients, names, None).values())

    of_group, of_all = problems(np.where(inside[:, None], truth, np.nan)), problems(truth)
    pairs = [pair for pair in zip(of_group, of_all, strict=True) if pair[0].values["auc"] is not None]
    if not pairs:
        return {"auc": None, "auc_interval": None, "auc_of_all": None, "auc_labels": 0}
    areas = resamples.of(lambda weights: {"auc": mean_of([group(weights)["auc"] for group, _ in pairs])})
    mean, overall = (float(np.mean([problem.values["auc"] for problem in side])) for side in zip(*pairs, strict=True))
    return {
        "auc": mean,
        "auc_interval": logit_interval(mean, areas["auc"]),
        "auc_of_all": overall,
        "auc_labels": len(pairs),
    }
