"""Scores for a clinic where the labels are rarer or commoner than in the training data.

It rests on one assumption: images of a label look the same there, and only how many there are of each label differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.metrics.decision import Threshold


@dataclass(frozen=True)
class Prior:
    """Re-weights scores from the shares of labels in training to those of a clinic."""

    training: tuple[float, ...]
    """(K,): the share of each label, above 0 and below 1; for multi of each finding, where it is known."""
    clinic: tuple[float, ...]
    multi: bool = False

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """float (n, K): each score times clinic / training, and divided by their sum (Saerens et al. 2002, equation 4;
        Elkan 2001); for multi between each finding and its absence."""
        training, clinic = np.array(self.training), np.array(self.clinic)
        if not self.multi:
            weighted = scores * (clinic / training)
            return weighted / weighted.sum(axis=1, keepdims=True)
        present, absent = scores * (clinic / training), (1 - scores) * ((1 - clinic) / (1 - training))
        return present / (present + absent)

    def threshold(self, threshold: Threshold, positive: int) -> Threshold:
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


def estimate_prevalence(scores: np.ndarray, training: tuple[float, ...], multi: bool = False) -> tuple[float, ...]:
    """The shares of the labels among unlabelled samples with scores (n, K), by expectation and maximisation (Saerens,
    Latinne and Decaestecker 2002): the shares under which the samples are likeliest.

    Where the images differ otherwise than in their labels' shares, it takes that for another prevalence. Calibrated scores
    are a condition too.
    """
    if multi:
        columns = [estimate_prevalence(np.stack([1 - column, column], axis=1), (1 - share, share))
                   for column, share in zip(scores.T, training, strict=True)]
        return tuple(share for _, share in columns)
    shares = np.array(training)
    scores = np.asarray(scores, np.float64)
    for _ in range(10_000):
        before, shares = shares, Prior(training, tuple(shares))(scores).mean(axis=0)
        if np.abs(shares - before).max() < 1e-7:
            break
    return tuple(max(float(share), 1e-6) for share in shares)  # at 0, scores could not be told apart any more
