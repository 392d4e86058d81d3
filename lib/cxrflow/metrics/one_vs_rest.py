"""Figures of a binary problem (one label against the rest), computed for many resamples at a time."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from cxrflow.metrics.calibration import BINS, bin_of, ece_of_calibrated, reliability
from cxrflow.metrics.intervals import MIN_PATIENTS, Rate, basic, logit_interval, percentiles, perfect_auc_interval
from cxrflow.metrics.ranking import Ranking

DRAWS = 10_000
LEVELS = (0.90, 0.95)
RANKED = ("auc", "average_precision")
RATES = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
POINTS: list[tuple[str, float, str]] = [("specificity", level, "sensitivity") for level in LEVELS] + [
    ("sensitivity", level, "specificity") for level in LEVELS
]
"""(fixed figure, its level, figure at that level); each tuple is also the name of that figure."""


class OneVsRest:
    """A binary problem: labels, scores and predictions of samples."""

    def __init__(
        self,
        positive: np.ndarray,
        scores: np.ndarray,
        predicted: np.ndarray,
        patients: np.ndarray,
        rows: np.ndarray | None = None,
    ):
        """``rows``, bool (n,), selects the samples; all if not given.

        ``positive``: bool (n,); ``scores``: float (n,); ``predicted``: bool (n,), predicted positive; ``patients``: any
        (n,).
        """
        self._rows = np.ones(len(scores), bool) if rows is None else rows
        self.positive, self.predicted = positive[self._rows], predicted[self._rows]
        # Integers are faster to count than texts.
        self._patients = np.unique(patients, return_inverse=True)[1][self._rows]
        self.scores = scores[self._rows].astype(np.float64)
        self._ranking = Ranking(self.positive, self.scores)
        self._too_few = len(np.unique(self._patients)) < MIN_PATIENTS
        true_positive = self.positive & self.predicted
        true_negative = ~self.positive & ~self.predicted
        # Numerator and denominator of each rate, in the order of RATES.
        fractions = [
            (true_positive | true_negative, np.ones(len(self.positive), bool)),
            (true_positive, self.positive),
            (true_negative, ~self.positive),
            (true_positive, self.predicted),
            (true_negative, ~self.predicted),
        ]
        self._fractions = np.stack([side for pair in fractions for side in pair], axis=1).astype(np.float64)
        error = self.positive - self.scores
        self._errors = np.column_stack([error**2, error[:, None] * np.eye(BINS)[bin_of(self.scores)]])

    def __call__(self, weights: np.ndarray) -> dict[Any, np.ndarray]:
        """All figures of resamples by name, float (b,); NaN without a value, or with fewer than MIN_PATIENTS patients.

        ``weights``: float (b, n), how often each sample counts.
        """
        found = self._figures(weights)
        return {name: np.full(len(weights), np.nan) for name in found} if self._too_few else found

    def _figures(self, weights: np.ndarray) -> dict[Any, np.ndarray]:
        weights = weights[:, self._rows]
        total = weights.sum(axis=1)
        ranked = self._ranking.figures(weights, LEVELS)
        sums, errors = weights @ self._fractions, weights @ self._errors
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = sums[:, ::2] / sums[:, 1::2]
            calibration = {"brier": errors[:, 0] / total, "ece": np.abs(errors[:, 1:]).sum(axis=1) / total}
        return {
            **dict(zip([*RANKED, *POINTS], ranked.T, strict=True)),
            **dict(zip(RATES, rates.T, strict=True)),
            **calibration,
        }

    def figures(self, resampled: dict[Any, np.ndarray], prevalence: float | None = None) -> dict:
        """All figures with their intervals as plain data; None without a value.

        Rates have Wilson intervals with their effective sample size (``Rate``), the AUC a normal interval on the logit
        scale, the others percentiles of the bootstrap over patients. ``resampled``: the result of ``Resamples.of`` for
        this problem. With ``prevalence``, ``clinic`` has the predictive values at that prevalence.
        """
        values = self.values
        found: dict = {"n": len(self.scores), "positives": int(self.positive.sum())}
        for name in RATES:
            found |= {name: values[name], f"{name}_interval": (rate := self.rate(name)) and rate.interval}
        found |= {
            "auc": values["auc"],
            "auc_interval": self._auc_interval(resampled["auc"]),
            "average_precision": values["average_precision"],
            "average_precision_interval": percentiles(resampled["average_precision"]),
        }
        found["operating_points"] = [
            {given: level, name: values[given, level, name], "interval": percentiles(resampled[given, level, name])}
            for given, level, name in POINTS
        ]
        if prevalence is not None:
            found["clinic"] = predictive(prevalence, self.rate("sensitivity"), self.rate("specificity"))
        return {**found, "calibration": self.calibration(resampled)}

    @cached_property
    def values(self) -> dict[Any, float | None]:
        """All figures of the samples themselves; None without a value."""
        figures = {name: float(value[0]) for name, value in self._figures(np.ones((1, len(self._rows)))).items()}
        return {name: value if np.isfinite(value) else None for name, value in figures.items()}

    def rate(self, name: str) -> Rate | None:
        """The rate with this name in RATES; None without a value."""
        column = 2 * RATES.index(name)
        return Rate.of(self._fractions[:, column], self._fractions[:, column + 1], self._patients)

    def _auc_interval(self, samples: np.ndarray) -> list[float] | None:
        area = self.values["auc"]
        if area not in (0, 1):
            return logit_interval(area, samples)
        perfect = perfect_auc_interval(
            *(len(np.unique(self._patients[side])) for side in (self.positive, ~self.positive))
        )
        return perfect if area or perfect is None else [1 - limit for limit in reversed(perfect)]

    def calibration(self, resampled: dict[Any, np.ndarray]) -> dict:
        """Brier score (mean squared error of the score), expected calibration error (ECE) and reliability diagram.

        The interval of the ECE starts at 0 if calibrated scores could have this ECE by chance. Without samples all
        figures are None, and ``bins`` is empty.
        """
        if not len(self.scores):
            return {
                **dict.fromkeys(("brier", "brier_interval", "ece", "ece_interval", "ece_of_calibrated")),
                "bins": [],
            }
        values, by_chance = self.values, ece_of_calibrated(self.scores, self._patients)
        error = values["ece"]
        assert error is not None
        interval = basic(error, resampled["ece"])
        if interval and error <= np.quantile(by_chance, 0.975):
            interval[0] = 0.0
        return {
            "brier": values["brier"],
            "brier_interval": percentiles(resampled["brier"]),
            "ece": error,
            "ece_interval": interval,
            "ece_of_calibrated": float(by_chance.mean()),
            "bins": reliability(self.positive, self.scores, self._patients),
        }


def predictive(prevalence: float, sensitivity: Rate | None, specificity: Rate | None) -> dict:
    """Predictive values at a ``prevalence``, from sensitivity and specificity by Bayes' theorem.

    Their intervals are percentiles over DRAWS pairs of rates, each drawn from Beta(k + 1/2, n - k + 1/2), the posterior
    of a rate of k in n under Jeffreys' prior (Brown, Cai and DasGupta 2001). So a rate of 1 has an error too. The
    intervals always contain the value.
    """
    found: dict = {"prevalence": prevalence, **dict.fromkeys(("ppv", "ppv_interval", "npv", "npv_interval"))}
    if sensitivity is None or specificity is None:
        return found
    random = np.random.default_rng(0)
    # For each predictive value: the rate of its correct predictions, that of the other label, and its label's share.
    for name, own, other, share in (
        ("ppv", sensitivity, specificity, prevalence),
        ("npv", specificity, sensitivity, 1 - prevalence),
    ):
        correct, wrong = own.value * share, (1 - other.value) * (1 - share)
        if not correct + wrong:
            continue
        correct_drawn, wrong_drawn = own.drawn(random, DRAWS) * share, (1 - other.drawn(random, DRAWS)) * (1 - share)
        low, high = np.percentile(correct_drawn / (correct_drawn + wrong_drawn), [2.5, 97.5])
        value = correct / (correct + wrong)
        found |= {name: float(value), f"{name}_interval": [float(min(value, low)), float(max(value, high))]}
    return found
