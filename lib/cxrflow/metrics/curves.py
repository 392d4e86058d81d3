"""ROC and precision-recall curves with pointwise 95 % bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.metrics.intervals import FEWEST_PATIENTS, Resamples
from cxrflow.metrics.ranking import Ranking

GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Curve:
    """A curve of the samples as they are, and its band: the 95 % percentile interval of each place of GRID, over patients."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    """float (101,), None where there are too few patients to resample, or a resample has no curve."""


def curves(
    positive: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int = 500, seed: int = 0
) -> tuple[Curve, Curve]:
    """(ROC: sensitivity over 1 - specificity; precision over sensitivity). Both are steps: of the ROC curve each begins at its
    point, of the other it ends there, as the area that is average precision has it. ``positive``: bool (n,), both values present;
    ``scores``: float (n,)."""
    ranking = Ranking(positive, scores)

    def on_grid(weights: np.ndarray) -> dict[str, np.ndarray]:
        found, alarms, precision = ranking.rates(weights)
        whole = np.isfinite(found).all(axis=1) & np.isfinite(alarms).all(axis=1)
        roc, recall = np.full((2, len(weights), len(GRID)), np.nan)
        for row in np.flatnonzero(whole):
            roc[row] = np.append(0, found[row])[np.searchsorted(alarms[row], GRID, side="right")]
            recall[row] = precision[row][np.searchsorted(found[row], GRID)]
        return {"roc": roc, "recall": recall}

    few = len(np.unique(patients)) < FEWEST_PATIENTS
    drawn = {} if few else Resamples(patients, resamples, seed).of(on_grid)
    found, alarms, precision = (values[0] for values in ranking.rates(np.ones((1, len(scores)))))
    return (
        Curve(np.append(0, alarms), np.append(0, found), *_band(drawn.get("roc"))),
        Curve(np.append(0, found), np.append(precision[0], precision), *_band(drawn.get("recall"))),
    )


def _band(drawn: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if drawn is None or np.isnan(drawn[:, -1]).any():
        return None, None
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return low, high
