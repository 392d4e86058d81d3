"""Shift in how images were taken: whether the shares of sexes, ages, views and machines are those of training.

The measure is the total variation distance (Gibbs and Su 2002), half the sum of the differences between the shares of
each group: the least share of the images that would have to be in another group. A distance is large if it is at least
LARGE, as for the distributions in ``metrics.shift``, and more than chance gives. The distance is the largest difference
between the two shares of any set of groups. By Hoeffding (1963, equation 2.7), chance alone makes this difference
larger than e for one set with a probability of at most exp(-2 e² / (1/n + 1/m)), for n and m patients. There are
2^k - 2 sets of k groups that matter (Weissman et al. 2003). With two groups the limit is that of the Kolmogorov-Smirnov
statistic.

As in ``metrics.shift``, the reference is weighted to the shares of the labels here: another prevalence is not a shift.
"""

from __future__ import annotations

import math

import numpy as np

from cxrflow.base.image_groups import MIN_PATIENTS, NOT_STATED, OTHER, group_order
from cxrflow.metrics.shift import CHANCE, LARGE, effective_patients, label_shares


def describe_taken(groups: dict, labels: list[str], patients: int) -> dict:
    """The reference that ``compare_taken`` takes, from ``groups`` of the audit.

    ``labels``: the labels, or ["all"] for images with several findings; ``patients``: number of patients of these
    images.
    """
    groupings = {
        name: {label: found["labels"].get(label, {}) for label in labels if found["labels"].get(label)}
        for name, found in groups.items()
    }
    return {"patients": patients, "groupings": {name: found for name, found in groupings.items() if found}}


def compare_taken(reference: dict, groups: dict[str, np.ndarray], labels: np.ndarray, patients: np.ndarray) -> dict:
    """Compare the groups of images with those of training.

    Args:
        reference: from ``describe_taken``: ``patients``, and ``groupings`` with the number of images by name of the
            grouping, label and group.
        groups: text (n,) by name of the grouping.
        labels: text (n,); "all" for images with several findings.
        patients: any (n,).

    Returns:
        ``measure``; ``groupings``, by name the ``distance``, the ``limit`` from which it is large, ``few`` (whether
        there are so few patients that a large shift may not show), the shares ``trained`` and ``here`` by group (None
        for fewer than MIN_PATIENTS patients here) and ``new`` (groups here of which training has fewer than
        MIN_PATIENTS patients); ``large``, the names of the groupings with a large distance, the largest first.
    """
    found = {}
    for name, here in groups.items():
        known = reference["groupings"].get(name)
        if known and not _states_nothing(known, here):
            found[name] = _compare(known, reference["patients"], here, labels, patients)
    large = [name for name in found if found[name]["distance"] >= found[name]["limit"]]
    return {
        "measure": "total variation distance",
        "groupings": found,
        "large": sorted(large, key=lambda name: -found[name]["distance"]),
    }


def _states_nothing(known: dict[str, dict[str, int]], here: np.ndarray) -> bool:
    return (here == NOT_STATED).all() and all(set(counts) == {NOT_STATED} for counts in known.values())


def _compare(
    known: dict[str, dict[str, int]], trained: int, here: np.ndarray, labels: np.ndarray, patients: np.ndarray
) -> dict:
    sizes = {label: {"n": sum(counts.values())} for label, counts in known.items()}
    weights = label_shares(sizes, labels)
    named = sorted(set().union(*known.values()) | {NOT_STATED}, key=group_order)
    shares = {
        group: sum(weight * known[label].get(group, 0) / sizes[label]["n"] for label, weight in weights.items())
        for group in named
    }
    counts = {group: len(np.unique(patients[here == group])) for group in np.unique(here).tolist()}
    new = [group for group, count in counts.items() if count >= MIN_PATIENTS and group not in (*named, OTHER)]
    # Groups that training does not name count as OTHER: that can only make the distance smaller.
    merged = np.where(np.isin(here, named), here, OTHER)
    names = [*named, OTHER] if (merged == OTHER).any() and OTHER not in named else named
    of_here = {group: float((merged == group).mean()) for group in names}
    names = [group for group in names if shares.get(group) or of_here[group]]
    limit = _limit(effective_patients(sizes, trained, weights), len(np.unique(patients)), len(names))
    distance = round(sum(abs(shares.get(group, 0) - of_here[group]) for group in names) / 2, 6)
    if set(np.unique(here[merged == OTHER])) <= set(new):  # each group in OTHER has a row of its own
        names = [group for group in names if group != OTHER or shares.get(OTHER)]
    return {
        "distance": distance,
        "limit": limit,
        "few": limit > LARGE,
        "trained": {group: shares.get(group, 0.0) for group in names} | dict.fromkeys(new, 0.0),
        "here": {group: _share((merged == group) & ~np.isin(here, new), patients) for group in names}
        | {group: _share(here == group, patients) for group in new},
        "new": new,
    }


def _share(rows: np.ndarray, patients: np.ndarray) -> float | None:
    return None if 0 < len(np.unique(patients[rows])) < MIN_PATIENTS else float(rows.mean())


def _limit(one: float, two: float, groups: int) -> float:
    """The distance from which a shift is large; chance alone exceeds it with probability CHANCE at most."""
    sets = max(2, 2**groups - 2)
    return min(1.0, max(LARGE, math.sqrt(math.log(sets / CHANCE) / 2 * (1 / one + 1 / two))))
