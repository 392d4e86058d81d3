"""Figures of parts of the samples: a model that is good on the whole may fail one hospital, or one kind of disease."""

from __future__ import annotations

import math
import re

import numpy as np

from cxrflow.metrics.decision import Threshold, predicted
from cxrflow.metrics.evaluation import binary_problems
from cxrflow.metrics.intervals import Resamples, logit_interval, mean_of
from cxrflow.metrics.one_vs_rest import OneVsRest

FEWEST = 10
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
    """``groups``: text (n,). Gives ``groups``, by name, and ``worst``: among those of at least FEWEST samples the name of the
    group with the lowest accuracy, for multi that whose AUC is farthest below the ``auc_of_all``, or None.

    Of a group: ``n``, ``patients``, and with their intervals accuracy and, with two labels, sensitivity, specificity and AUC. A
    group with one label alone, such as a kind of disease, has no AUC of its own: there it is that of its samples against all
    those of the other label, and ``auc_against`` says so. For multi, the AUC is the mean over those findings, ``auc_labels`` of them,
    that are both present and absent in the group; ``auc_of_all`` is the mean of all samples over the same findings, some of which
    are harder than others.
    """
    called = predicted(scores, positive, threshold)
    resamples = Resamples(patients, bootstrap, seed)
    found = {}
    for name in sorted(set(groups.tolist()), key=_in_order):
        inside = groups == name
        figures = {"n": int(inside.sum()), "patients": len(np.unique(patients[inside]))}
        if truth.ndim == 2:
            figures |= _mean_auc(truth, scores, called, patients, inside, resamples)
        elif len(labels) == 2:
            figures |= _of_two(truth, scores, called, patients, inside, labels, positive, resamples)
        else:
            figures |= _rates(
                OneVsRest(truth == called, scores.max(axis=1), np.ones(len(truth), bool), patients, inside),
                ("accuracy",),
                resamples,
            )
        found[name] = figures
    return {"groups": found, "worst": _worst(found)}


def _in_order(name: str) -> tuple[float, str]:
    """Names that begin with a number in its order, then the others."""
    number = re.match(r"\d+(\.\d+)?", name)
    return float(number[0]) if number else math.inf, name


def _worst(found: dict[str, dict]) -> str | None:
    counted = {
        name: group["accuracy"] if "accuracy" in group else group["auc"] - group["auc_of_all"]
        for name, group in found.items()
        if group["n"] >= FEWEST and group.get("auc_labels") != 0
    }
    return min(counted, key=counted.get) if len(counted) > 1 else None


def _rates(question: OneVsRest, names: tuple[str, ...], resamples: Resamples) -> dict:
    figures = question.figures(resamples.of(question))
    return {key: figures[key] for name in names for key in (name, f"{name}_interval")}


def _of_two(
    truth: np.ndarray,
    scores: np.ndarray,
    called: np.ndarray,
    patients: np.ndarray,
    inside: np.ndarray,
    labels: list[str],
    positive: int,
    resamples: Resamples,
) -> dict:
    yes = truth == positive
    figures = {"positives": int(yes[inside].sum())}
    figures |= _rates(OneVsRest(yes, scores[:, positive], called == positive, patients, inside), _RATES, resamples)
    present = np.unique(truth[inside])
    both = len(present) == 2
    rows = inside if both else inside | (truth != present[0])
    figures |= _rates(OneVsRest(yes, scores[:, positive], called == positive, patients, rows), ("auc",), resamples)
    return {**figures, "auc_against": None if both else f"all {labels[1 - int(present[0])]}"}


def _mean_auc(
    truth: np.ndarray,
    scores: np.ndarray,
    called: np.ndarray,
    patients: np.ndarray,
    inside: np.ndarray,
    resamples: Resamples,
) -> dict:
    def asked(states: np.ndarray) -> dict[str, OneVsRest]:
        return binary_problems(states, scores, called, patients, [str(place) for place in range(truth.shape[1])], None)

    here, all_of_it = asked(np.where(inside[:, None], truth, np.nan)), asked(truth)
    both = [place for place, question in here.items() if question.values["auc"] is not None]
    if not both:
        return {"auc": None, "auc_interval": None, "auc_of_all": None, "auc_labels": 0}
    areas = resamples.of(lambda weights: {"auc": mean_of([here[place](weights)["auc"] for place in both])})
    mean = float(np.mean([here[place].values["auc"] for place in both]))
    return {
        "auc": mean,
        "auc_interval": logit_interval(mean, areas["auc"]),
        "auc_of_all": float(np.mean([all_of_it[place].values["auc"] for place in both])),
        "auc_labels": len(both),
    }
