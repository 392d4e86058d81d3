"""One label against the rest: the figures of a yes-or-no question, of many resamples at a time."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from cxrflow.metrics.calibration import BINS, bin_of, ece_of_calibrated, reliability
from cxrflow.metrics.intervals import FEWEST_PATIENTS, Rate, basic, logit_interval, percentiles, perfect_auc_interval
from cxrflow.metrics.ranking import Ranking

DRAWN = 10_000
LEVELS = (0.90, 0.95)
RANKED = ("auc", "average_precision")
RATES = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
POINTS = [("specificity", level, "sensitivity") for level in LEVELS] + [
    ("sensitivity", level, "specificity") for level in LEVELS
]
"""(what is given, at which level, what is found)"""


class OneVsRest:
    """Samples of which some are positive, their scores, and which of them are called positive."""

    def __init__(
        self,
        positive: np.ndarray,
        scores: np.ndarray,
        called: np.ndarray,
        patients: np.ndarray,
        rows: np.ndarray | None = None,
    ):
        """bool (n,), float (n,), bool (n,), any (n,); ``rows``, bool (n,): the samples that the question is about, all if not
        given."""
        self._rows = np.ones(len(scores), bool) if rows is None else rows
        self.positive, self.called = positive[self._rows], called[self._rows]
        self._patients = np.unique(patients, return_inverse=True)[1][
            self._rows
        ]  # whole numbers, which are quicker to count
        self.scores = scores[self._rows].astype(np.float64)
        self._ranking = Ranking(self.positive, self.scores)
        self._few = len(np.unique(self._patients)) < FEWEST_PATIENTS
        yes, no, called = self.positive, ~self.positive, self.called
        # The two sides of each rate, in the order of RATES: what is counted, and out of what.
        self._sides = np.stack(
            [
                yes == called,
                np.ones(len(yes), bool),
                yes & called,
                yes,
                no & ~called,
                no,
                yes & called,
                called,
                no & ~called,
                ~called,
            ],
            axis=1,
        ).astype(np.float64)
        error = self.positive - self.scores
        self._errors = np.column_stack([error**2, error[:, None] * np.eye(BINS)[bin_of(self.scores)]])

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure by name, float (b,), of resamples; NaN where it has no value, or there are too few patients to resample.
        ``weights``: float (b, n), how often each sample counts."""
        found = self._figures(weights)
        return {name: np.full(len(weights), np.nan) for name in found} if self._few else found

    def _figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        weights = weights[:, self._rows]
        total = weights.sum(axis=1)
        ranked = self._ranking.figures(weights, LEVELS)
        sides, errors = weights @ self._sides, weights @ self._errors
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = sides[:, ::2] / sides[:, 1::2]
            calibration = {"brier": errors[:, 0] / total, "ece": np.abs(errors[:, 1:]).sum(axis=1) / total}
        return {
            **dict(zip((*RANKED, *POINTS), ranked.T, strict=True)),
            **dict(zip(RATES, rates.T, strict=True)),
            **calibration,
        }

    def figures(self, resampled: dict[str, np.ndarray], prevalence: float | None = None) -> dict:
        """All figures with their intervals as plain data, None where there is none; ``resampled``: what ``Resamples.of`` made
        of this question. With a clinic's ``prevalence``, also its predictive values.

        Rates have Wilson's interval, of as many images as their patients are worth (``Rate``), the AUC one that is normal on the
        logit's scale, the rest percentiles of the bootstrap over patients.
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
    def values(self) -> dict:
        """Every figure of the samples as they are, None where it has no value."""
        figures = {name: float(value[0]) for name, value in self._figures(np.ones((1, len(self._rows)))).items()}
        return {name: value if np.isfinite(value) else None for name, value in figures.items()}

    def rate(self, name: str) -> Rate | None:
        """One of RATES."""
        place = 2 * RATES.index(name)
        return Rate.of(self._sides[:, place], self._sides[:, place + 1], self._patients)

    def _auc_interval(self, samples: np.ndarray) -> list[float] | None:
        area = self.values["auc"]
        if area not in (0, 1):
            return logit_interval(area, samples)
        perfect = perfect_auc_interval(
            *(len(np.unique(self._patients[side])) for side in (self.positive, ~self.positive))
        )
        return perfect if area else [1 - limit for limit in reversed(perfect)]

    def calibration(self, resampled: dict[str, np.ndarray]) -> dict:
        """Brier score (mean squared error of the score), expected calibration error, and the reliability diagram. The error's
        interval begins at 0 where calibrated scores would have such an error too. All None, and no bins, of no samples."""
        if not len(self.scores):
            return {
                **dict.fromkeys(("brier", "brier_interval", "ece", "ece_interval", "ece_of_calibrated")),
                "bins": [],
            }
        values, by_chance = self.values, ece_of_calibrated(self.scores, self._patients)
        interval = basic(values["ece"], resampled["ece"])
        if interval and values["ece"] <= np.quantile(by_chance, 0.975):
            interval[0] = 0.0
        return {
            "brier": values["brier"],
            "brier_interval": percentiles(resampled["brier"]),
            "ece": values["ece"],
            "ece_interval": interval,
            "ece_of_calibrated": float(by_chance.mean()),
            "bins": reliability(self.positive, self.scores, self._patients),
        }


def predictive(prevalence: float, sensitivity: Rate | None, specificity: Rate | None) -> dict:
    """The predictive values where ``prevalence`` of the images are positive, by Bayes from sensitivity and specificity.

    Their intervals are percentiles of those of DRAWN pairs of rates, each from Beta(k + 1/2, n - k + 1/2), what is known of a rate of
    k in n by Jeffreys' prior (Brown, Cai and DasGupta 2001): so a rate of 1 has an error too. They hold the value in any case.
    """
    found: dict = {"prevalence": prevalence, **dict.fromkeys(("ppv", "ppv_interval", "npv", "npv_interval"))}
    if sensitivity is None or specificity is None:
        return found
    random = np.random.default_rng(0)
    # Of each predictive value: the rate whose hits it counts, the one whose errors it counts, and the share of its label.
    for name, right, other, share in (
        ("ppv", sensitivity, specificity, prevalence),
        ("npv", specificity, sensitivity, 1 - prevalence),
    ):
        hits, errors = right.value * share, (1 - other.value) * (1 - share)
        if not hits + errors:
            continue
        hits_drawn, errors_drawn = right.drawn(random, DRAWN) * share, (1 - other.drawn(random, DRAWN)) * (1 - share)
        low, high = np.percentile(hits_drawn / (hits_drawn + errors_drawn), [2.5, 97.5])
        value = hits / (hits + errors)
        found |= {name: float(value), f"{name}_interval": [float(min(value, low)), float(max(value, high))]}
    return found
