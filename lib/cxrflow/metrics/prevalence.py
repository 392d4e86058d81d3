"""Scores for a clinic where the labels are rarer or commoner than in the training data.

It rests on one assumption: images of a label look the same there, and only how many there are of each label differs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from cxrflow.base.errors import UserError
from cxrflow.metrics.decision import Threshold


@dataclass(frozen=True)
class Prior:
    """Re-weights scores from the shares of labels in training to those of a clinic."""

    training: tuple[float, ...]
    """(K,): the share of each label, above 0 and below 1; for multi of each finding, where it is known."""
    clinic: tuple[float, ...]
    """(K,); empty where it is yet to be estimated."""
    multi: bool = False

    def estimated(self, scores: np.ndarray) -> Prior:
        """The same for the clinic that the scores (n, K) come from, whose shares are estimated from them."""
        return dataclasses.replace(self, clinic=estimate_prevalence(scores, self.training, self.multi))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """float (n, K): each score times clinic / training, and divided by their sum (Saerens et al. 2002, equation 4;
        Elkan 2001); for multi between each finding and its absence."""
        training, clinic = np.array(self.training), np.array(self.clinic)
        if not self.multi:
            weighted = scores * (clinic / training)
            return weighted / weighted.sum(axis=1, keepdims=True)
        present, absent = scores * (clinic / training), (1 - scores) * ((1 - clinic) / (1 - training))
        return present / (present + absent)

    def threshold(self, threshold: Threshold, positive: int | None) -> Threshold:
        """The threshold that calls the same images of re-weighted scores: its criterion does not depend on the prevalence,
        so it moves with the scores."""
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
    """The clinic's share of each label, from what ``config.parse_prevalence`` read.

    Raises UserError where it is not of these labels, or of labels of which each image has one and does not add up to 1.
    """
    if isinstance(given, float):
        if len(labels) != 2 or multi:
            raise UserError(
                f"--prevalence: expected a share of each label ({', '.join(labels)}) as label=share,label=share,...; "
                f"got {given:g}"
            )
        given = {labels[positive]: given, labels[1 - positive]: 1 - given}
    if set(given) != set(labels) or (not multi and abs(sum(given.values()) - 1) > 1e-6):
        raise UserError(
            f"--prevalence: expected a share of each of {', '.join(labels)}{'' if multi else ', which add up to 1'}; got "
            + ", ".join(f"{label}={share:g}" for label, share in given.items())
        )
    return tuple(given[label] for label in labels)


def estimate_prevalence(scores: np.ndarray, training: tuple[float, ...], multi: bool = False) -> tuple[float, ...]:
    """The shares of the labels among unlabelled samples with scores (n, K), by expectation and maximisation (Saerens,
    Latinne and Decaestecker 2002): the shares under which the samples are likeliest.

    Where the images differ otherwise than in their labels' shares, it takes that for another prevalence. Calibrated scores
    are a condition too.
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
    shares = np.maximum(shares, 1e-6)  # at 0, scores could not be told apart any more
    return tuple((shares / shares.sum()).tolist())
