"""Metrics of subgroups: a model that is good overall may fail at one hospital, or for one kind of disease."""

from __future__ import annotations

import numpy as np

from cxrflow.base.image_groups import group_order
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
    """Figures of each group. ``groups``: text or None (n,), None for samples in no group; the other arguments as in
    ``evaluate_scores``. The patients of each group are resampled on their own.

    Returns ``groups``, by name, and ``worst``: the name of the group with the lowest accuracy, or for multi with the
    AUC farthest below ``auc_of_all``; None if fewer than two groups have MIN_SAMPLES samples.

    Each group has ``n``, ``patients`` and, with intervals, accuracy and with two labels sensitivity, specificity and
    AUC. A group with one label only, such as a kind of disease, has no AUC. Its samples are compared with all samples
    of the other label, and ``auc_against`` names it. For multi, ``auc`` is the mean over the ``auc_labels`` findings
    that are both present and absent in the group, and ``auc_of_all`` the mean of all samples over the same findings,
    because some findings are harder than others.
    """
    labels_predicted = predicted(scores, positive, threshold)
    draws = (bootstrap, seed)
    found = {}
    for name in sorted({name for name in groups.tolist() if name is not None}, key=group_order):
        inside = groups == name
        figures = {"n": int(inside.sum()), "patients": len(np.unique(patients[inside]))}
        if truth.ndim == 2:
            figures |= _mean_auc(truth, scores, labels_predicted, patients, inside, draws)
        elif len(labels) == 2:
            assert positive is not None
            figures |= _binary(truth, scores, labels_predicted, patients, inside, labels, positive, draws)
        else:
            always = np.ones(len(truth), bool)
            sides = (truth == labels_predicted, scores.max(axis=1), always)
            figures |= _with_intervals(sides, patients, inside, ("accuracy",), draws)
        found[name] = figures
    return {"groups": found, "worst": _worst(found)}


def _worst(groups: dict[str, dict]) -> str | None:
    compared: dict[str, float] = {
        name: group["accuracy"] if "accuracy" in group else group["auc"] - group["auc_of_all"]
        for name, group in groups.items()
        if group["n"] >= MIN_SAMPLES and group.get("auc_labels") != 0
    }
    return min(compared, key=lambda name: compared[name]) if len(compared) > 1 else None


def _with_intervals(
    sides: tuple[np.ndarray, np.ndarray, np.ndarray],
    patients: np.ndarray,
    rows: np.ndarray,
    names: tuple[str, ...],
    draws: tuple[int, int],
) -> dict:
    """The named figures of the selected rows. ``sides``: positive, scores and predicted, see ``OneVsRest``."""
    positive, scores, predicted_positive = (side[rows] for side in sides)
    problem = OneVsRest(positive, scores, predicted_positive, patients[rows])
    figures = problem.figures(Resamples(patients[rows], *draws).of(problem))
    return {key: figures[key] for name in names for key in (name, f"{name}_interval")}


def _binary(
    truth: np.ndarray,
    scores: np.ndarray,
    labels_predicted: np.ndarray,
    patients: np.ndarray,
    inside: np.ndarray,
    labels: list[str],
    positive: int,
    draws: tuple[int, int],
) -> dict:
    is_positive = truth == positive
    sides = (is_positive, scores[:, positive], labels_predicted == positive)
    figures = {"positives": int(is_positive[inside].sum())}
    figures |= _with_intervals(sides, patients, inside, _RATES, draws)
    present = np.unique(truth[inside])
    both = len(present) == 2
    rows = inside if both else inside | (truth != present[0])
    figures |= _with_intervals(sides, patients, rows, ("auc",), draws)
    return {**figures, "auc_against": None if both else f"all {labels[1 - int(present[0])]}"}


def _mean_auc(
    truth: np.ndarray,
    scores: np.ndarray,
    labels_predicted: np.ndarray,
    patients: np.ndarray,
    inside: np.ndarray,
    draws: tuple[int, int],
) -> dict:
    def problems(rows: np.ndarray) -> list[OneVsRest]:
        names = [str(index) for index in range(truth.shape[1])]
        of_rows = binary_problems(truth[rows], scores[rows], labels_predicted[rows], patients[rows], names, None)
        return list(of_rows.values())

    of_group, of_all = problems(inside), problems(np.ones(len(truth), bool))
    pairs = [pair for pair in zip(of_group, of_all, strict=True) if pair[0].values["auc"] is not None]
    if not pairs:
        return {"auc": None, "auc_interval": None, "auc_of_all": None, "auc_labels": 0}
    resamples = Resamples(patients[inside], *draws)
    areas = resamples.of(lambda weights: {"auc": mean_of([group(weights)["auc"] for group, _ in pairs])})
    mean, overall = (float(np.mean([problem.values["auc"] for problem in side])) for side in zip(*pairs, strict=True))
    return {
        "auc": mean,
        "auc_interval": logit_interval(mean, areas["auc"]),
        "auc_of_all": overall,
        "auc_labels": len(pairs),
    }


def listed_subgroups(metrics: dict) -> list[dict]:
    """The groupings of an evaluation, by its metrics.json: ``by``, ``groups``, ``worst`` and ``unshown``."""
    found = metrics.get("subgroups") or []
    return [{**found, "unshown": 0}] if isinstance(found, dict) else found  # older versions had at most one
