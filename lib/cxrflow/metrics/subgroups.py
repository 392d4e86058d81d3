"""Figures of parts of the samples: a model that is good on the whole may fail one hospital, or one kind of disease."""

from __future__ import annotations

import math
import re

import numpy as np

from cxrflow.metrics.decision import Threshold, predicted
from cxrflow.metrics.intervals import Resamples, percentiles
from cxrflow.metrics.judge import questions
from cxrflow.metrics.question import Question

FEWEST = 10
_RATES = ("accuracy", "sensitivity", "specificity")


def judge_subgroups(truth: np.ndarray, scores: np.ndarray, patients: np.ndarray, groups: np.ndarray, labels: list[str],
                    positive: int | None, threshold: Threshold, bootstrap: int = 1000, seed: int = 0) -> dict:
    """``groups``: text (n,). Gives ``groups``, by name, and ``worst``: the name of the group with the lowest accuracy (for
    multi, the lowest AUC) among those of at least FEWEST samples, or None.

    Of a group: ``n``, ``patients``, and with their intervals accuracy and, with two labels, sensitivity, specificity and AUC. A
    group with one label alone, such as a kind of disease, has no AUC of its own: there it is that of its samples against all
    those of the other label, and ``auc_against`` says so. For multi, the AUC is the mean over findings.
    """
    called = predicted(scores, positive, threshold)
    resamples = Resamples(patients, bootstrap, seed)
    found = {}
    for name in sorted(set(groups.tolist()), key=_in_order):
        inside = groups == name
        figures = {"n": int(inside.sum()), "patients": len(np.unique(patients[inside]))}
        if truth.ndim == 2:
            figures |= _mean_auc(truth, scores, called, inside, resamples)
        elif len(labels) == 2:
            figures |= _of_two(truth, scores, called, patients, inside, labels, positive, resamples)
        else:
            figures |= _rates(Question(truth == called, scores.max(axis=1), np.ones(len(truth), bool), inside),
                              ("accuracy",), patients, resamples)
        found[name] = figures
    return {"groups": found, "worst": _worst(found, "auc" if truth.ndim == 2 else "accuracy")}


def _in_order(name: str) -> tuple[float, str]:
    """Names that begin with a number in its order, then the others."""
    number = re.match(r"\d+(\.\d+)?", name)
    return float(number[0]) if number else math.inf, name


def _worst(found: dict[str, dict], figure: str) -> str | None:
    counted = {name: group[figure] for name, group in found.items() if group["n"] >= FEWEST and group[figure] is not None}
    return min(counted, key=counted.get) if len(counted) > 1 else None


def _rates(question: Question, names: tuple[str, ...], patients: np.ndarray, resamples: Resamples) -> dict:
    figures = question.figures(resamples.of(question), patients)
    return {key: figures[key] for name in names for key in (name, f"{name}_interval", f"{name}_interval_by_patient") if key in figures}


def _of_two(truth: np.ndarray, scores: np.ndarray, called: np.ndarray, patients: np.ndarray, inside: np.ndarray,
            labels: list[str], positive: int, resamples: Resamples) -> dict:
    yes = truth == positive
    figures = {"positives": int(yes[inside].sum())}
    figures |= _rates(Question(yes, scores[:, positive], called == positive, inside), _RATES, patients, resamples)
    present = np.unique(truth[inside])
    both = len(present) == 2
    rows = inside if both else inside | (truth != present[0])
    figures |= _rates(Question(yes, scores[:, positive], called == positive, rows), ("auc",), patients, resamples)
    return {**figures, "auc_against": None if both else f"all {labels[1 - int(present[0])]}"}


def _mean_auc(truth: np.ndarray, scores: np.ndarray, called: np.ndarray, inside: np.ndarray, resamples: Resamples) -> dict:
    part = np.where(inside[:, None], truth, np.nan)
    every = questions(part, scores, called, [str(place) for place in range(truth.shape[1])], 0).values()
    asked = [question for question in every if len(set(question.positive.tolist())) == 2]
    if not asked:
        return {"auc": None, "auc_interval": None}
    areas = resamples.of(lambda weights: {"auc": np.mean([question(weights)["auc"] for question in asked], axis=0)})
    return {"auc": float(np.mean([question.values["auc"] for question in asked])), "auc_interval": percentiles(areas["auc"])}
