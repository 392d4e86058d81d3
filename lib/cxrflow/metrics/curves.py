"""ROC and precision-recall curves with pointwise 95 % bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.metrics.intervals import MIN_PATIENTS, Resamples
from cxrflow.metrics.ranking import Ranking

GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Curve:
    """A curve, and its band: the 95 % percentile interval over patients at each point of GRID."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    """float (101,). None if there are too few patients to resample, or a resample has no curve."""


def curves(
    positive: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int = 500, seed: int = 0
) -> tuple[Curve, Curve]:
    """The ROC curve (sensitivity over 1 - specificity) and the precision-recall curve (precision over sensitivity).

    Both are step functions. A step of the ROC curve begins at its point. A step of the precision-recall curve ends at
    its point, so that the area below is the average precision. ``positive``: bool (n,), both values present;
    ``scores``: float (n,); ``patients``: any (n,).
    """
    ranking = Ranking(positive, scores)

    def on_grid(weights: np.ndarray) -> dict[str, np.ndarray]:
        sensitivity, false_positive_rate, precision = ranking.rates(weights)
        complete = np.isfinite(sensitivity).all(axis=1) & np.isfinite(false_positive_rate).all(axis=1)
        roc, recall = np.full((2, len(weights), len(GRID)), np.nan)
        for row in np.flatnonzero(complete):
            steps = np.searchsorted(false_positive_rate[row], GRID, side="right")
            roc[row] = np.append(0, sensitivity[row])[steps]
            recall[row] = precision[row][np.searchsorted(sensitivity[row], GRID)]
        return {"roc": roc, "recall": recall}

    few = len(np.unique(patients)) < MIN_PATIENTS
    drawn = {} if few else Resamples(patients, resamples, seed).of(on_grid)
    sensitivity, false_positive_rate, precision = (values[0] for values in ranking.rates(np.ones((1, len(scores)))))
    return (
        Curve(np.append(0, false_positive_rate), np.append(0, sensitivity), *_band(drawn.get("roc"))),
        Curve(np.append(0, sensitivity), np.append(precision[0], precision), *_band(drawn.get("recall"))),
    )


def _band(drawn: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if drawn is None or np.isnan(drawn[:, -1]).any():
        return None, None
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return low, high
