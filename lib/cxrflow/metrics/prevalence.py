"""Adjusts scores to a clinic in which labels are rarer or more common than in the training data.

It assumes label shift: images of a label look the same there, and only the share of each label differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.base.errors import UserError
from cxrflow.metrics.decision import Threshold


@dataclass(frozen=True)
class Prior:
    """Re-weights scores from the prevalence in the training data to that of a clinic."""

    training: tuple[float, ...]
    """(K,): the share of each label, above 0 and below 1; for multi that of each finding where it is known."""
    clinic: tuple[float, ...]
    """(K,): the share of each label there."""
    multi: bool = False

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """float (n, K): each score times clinic / training, normalised to a sum of 1 (Saerens et al. 2002, equation 4).

        For multi this is done for each finding and its absence (Elkan 2001).
        """
        training, clinic = np.array(self.training), np.array(self.clinic)
        if not self.multi:
            weighted = scores * (clinic / training)
            return weighted / weighted.sum(axis=1, keepdims=True)
        present, absent = scores * (clinic / training), (1 - scores) * ((1 - clinic) / (1 - training))
        return present / (present + absent)

    def threshold(self, threshold: Threshold, positive: int | None) -> Threshold:
        """The threshold for re-weighted scores. It predicts the same labels, because its rule ignores the
        prevalence."""
        if isinstance(threshold, list):
            moved = self(np.array([[0.5 if value is None else value for value in threshold]]))[0]
            return [None if value is None else float(new) for value, new in zip(threshold, moved, strict=True)]
        if threshold is None:
            return None
        pair = np.full((1, 2), 1 - threshold)
        pair[0, positive] = threshold
        return float(self(pair)[0, positive])


def find_shares(
    given: dict[str, float] | float, labels: list[str], positive: int | None, multi: bool = False
) -> tuple[float, ...]:
    """The clinic's share of each label, from the result of ``config.parse_prevalence``.

    Raises UserError if the shares are not those of the labels, or do not add up to 1 for single-label images.
    """
    if isinstance(given, float):
        if len(labels) != 2 or multi:
            raise UserError(
                f"--prevalence: expected a share of each label ({', '.join(labels)}), got {given:g}; "
                "write label=share,label=share,..."
            )
        assert positive is not None
        given = {labels[positive]: given, labels[1 - positive]: 1 - given}
    if set(given) != set(labels) or (not multi and abs(sum(given.values()) - 1) > 1e-6):
        raise UserError(
            f"--prevalence: expected a share of each of {', '.join(labels)}{'' if multi else ', adding up to 1'}, got "
            + ", ".join(f"{label}={share:g}" for label, share in given.items())
        )
    return tuple(given[label] for label in labels)


def estimate_prevalence(scores: np.ndarray, training: tuple[float, ...], multi: bool = False) -> tuple[float, ...]:
    """The maximum likelihood shares of labels among samples with scores (n, K), by EM (Saerens et al. 2002).

    It needs calibrated scores. It mistakes any other difference between the images for another prevalence.
    """
    if multi:
        columns = [
            estimate_prevalence(np.stack([1 - column, column], axis=1), (1 - share, share))
            for column, share in zip(scores.T, training, strict=True)
        ]
        return tuple(share for _, share in columns)
    shares = np.array(training)
    scores = np.asarray(scores, np.float64)
    for _ in range(10_000):
        before, shares = shares, Prior(training, tuple(shares))(scores).mean(axis=0)
        if np.abs(shares - before).max() < 1e-7:
            break
    shares = np.maximum(shares, 1e-6)  # a share of 0 would make all scores of the label 0
    return tuple((shares / shares.sum()).tolist())
