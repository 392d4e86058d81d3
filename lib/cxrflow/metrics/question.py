"""One label against the rest: the figures of a yes-or-no question, of many resamples at a time."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from cxrflow.metrics.calibration import BINS, bin_of, ece_of_calibrated, reliability
from cxrflow.metrics.intervals import basic, percentiles, wilson
from cxrflow.metrics.ranking import Ranking

LEVELS = (0.90, 0.95)
RANKED = ("auc", "average_precision")
RATES = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
POINTS = [("specificity", level, "sensitivity") for level in LEVELS] + [("sensitivity", level, "specificity") for level in LEVELS]
"""(what is given, at which level, what is found)"""


class Question:
    """Samples of which some are positive, their scores, and which of them are called positive."""

    def __init__(self, positive: np.ndarray, scores: np.ndarray, called: np.ndarray, rows: np.ndarray | None = None):
        """bool (n,), float (n,), bool (n,); ``rows``, bool (n,): the samples that the question is about, all if not given."""
        self._rows = np.ones(len(scores), bool) if rows is None else rows
        self.positive, self.called = positive[self._rows], called[self._rows]
        self.scores = scores[self._rows].astype(np.float64)
        self._ranking = Ranking(self.positive, self.scores)
        yes, no, called = self.positive, ~self.positive, self.called
        # The two sides of each rate, in the order of RATES: what is counted, and out of what.
        self._sides = np.stack([yes == called, np.ones(len(yes), bool), yes & called, yes, no & ~called, no, yes & called, called,
                                no & ~called, ~called], axis=1).astype(np.float64)
        error = self.positive - self.scores
        self._errors = np.column_stack([error**2, error[:, None] * np.eye(BINS)[bin_of(self.scores)]])

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure by name, float (b,); NaN where it has no value. ``weights``: float (b, n), how often each sample
        counts."""
        weights = weights[:, self._rows]
        total = weights.sum(axis=1)
        ranked = self._ranking.figures(weights, LEVELS)
        sides, errors = weights @ self._sides, weights @ self._errors
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = sides[:, ::2] / sides[:, 1::2]
            calibration = {"brier": errors[:, 0] / total, "ece": np.abs(errors[:, 1:]).sum(axis=1) / total}
        return {**dict(zip((*RANKED, *POINTS), ranked.T, strict=True)), **dict(zip(RATES, rates.T, strict=True)), **calibration}

    def figures(self, resampled: dict[str, np.ndarray], patients: np.ndarray, prevalence: float | None = None) -> dict:
        """All figures with their intervals as plain data, None where there is none; ``resampled``: what ``Resamples.of`` made
        of this question; ``patients``: any (n,).

        Rates have Wilson's interval, and where patients have several images also ``_interval_by_patient``, the bootstrap's. With a
        clinic's ``prevalence``, also its predictive values.
        """
        values = self.values
        several = len(np.unique(patients[self._rows])) < len(self.scores)
        found: dict = {"n": len(self.scores), "positives": int(self.positive.sum())}
        for place, name in enumerate(RATES):
            sides = self._sides[:, 2 * place: 2 * place + 2].sum(axis=0).astype(int)
            found |= {name: values[name], f"{name}_interval": wilson(*sides)}
            if several:
                found[f"{name}_interval_by_patient"] = percentiles(resampled[name])
        for name in RANKED:
            found |= {name: values[name], f"{name}_interval": percentiles(resampled[name])}
        found["operating_points"] = [
            {given: level, name: values[given, level, name], "interval": percentiles(resampled[given, level, name])}
            for given, level, name in POINTS]
        if prevalence is not None:
            found["clinic"] = _predictive(prevalence, values, resampled)
        return {**found, "calibration": self.calibration(resampled)}

    @cached_property
    def values(self) -> dict:
        """Every figure of the samples as they are, None where it has no value."""
        figures = {name: float(value[0]) for name, value in self(np.ones((1, len(self._rows)))).items()}
        return {name: value if np.isfinite(value) else None for name, value in figures.items()}

    def calibration(self, resampled: dict[str, np.ndarray]) -> dict:
        """Brier score (mean squared error of the score), expected calibration error, and the reliability diagram. The error's
        interval begins at 0 where calibrated scores would have such an error too. All None, and no bins, of no samples."""
        if not len(self.scores):
            return {**dict.fromkeys(("brier", "brier_interval", "ece", "ece_interval", "ece_of_calibrated")), "bins": []}
        values, by_chance = self.values, ece_of_calibrated(self.scores)
        interval = basic(values["ece"], resampled["ece"])
        if interval and values["ece"] <= np.quantile(by_chance, 0.975):
            interval[0] = 0.0
        return {"brier": values["brier"], "brier_interval": percentiles(resampled["brier"]), "ece": values["ece"],
                "ece_interval": interval, "ece_of_calibrated": float(by_chance.mean()),
                "bins": reliability(self.positive, self.scores)}


def _predictive(prevalence: float, values: dict, resampled: dict[str, np.ndarray]) -> dict:
    """The predictive values where ``prevalence`` of the images are positive, by Bayes from sensitivity and specificity."""
    def both(sensitivity, specificity) -> dict:
        hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
        rejected, misses = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"ppv": np.divide(hits, hits + alarms), "npv": np.divide(rejected, rejected + misses)}

    found: dict = {"prevalence": prevalence}
    known = values["sensitivity"] is not None and values["specificity"] is not None
    here = both(values["sensitivity"], values["specificity"]) if known else {}
    for name, samples in both(resampled["sensitivity"], resampled["specificity"]).items():
        value = float(here.get(name, np.nan))
        found |= {name: value if np.isfinite(value) else None, f"{name}_interval": percentiles(samples)}
    return found
