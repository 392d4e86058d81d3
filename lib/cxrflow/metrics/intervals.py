"""95 % intervals. Images of one patient are not independent, so each of them counts patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

FEWEST_PATIENTS = 10
"""Of fewer there is no bootstrap, nor a variance between them: what they have in common is taken for what all patients have."""
Z = float(norm.ppf(0.975))
_AT_ONCE = 2**20  # weights, 8 MB


def wilson(successes: float, trials: float) -> list[float] | None:
    """Interval of a rate (Wilson 1927): [low, high], or None for no trials. It takes the trials for independent."""
    if not trials:
        return None
    share, spread = successes / trials, Z**2 / trials
    middle, half = (
        (share + spread / 2) / (1 + spread),
        np.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread),
    )
    return [float(max(0.0, middle - half)) if share else 0.0, float(min(1.0, middle + half)) if share < 1 else 1.0]


@dataclass(frozen=True)
class Rate:
    """A share of samples, and as many independent ones as would tell as much of it."""

    value: float
    trials: float

    @classmethod
    def of(cls, successes: np.ndarray, trials: np.ndarray, patients: np.ndarray) -> Rate | None:
        """``successes``, ``trials``: 0 or 1 (n,), whether a sample is counted, and out of what; ``patients``: any (n,). None of
        no trials.

        The samples are divided by the design effect (Kish 1965): how many times the variance between patients is what it
        would be were their samples independent. What so many patients tell of that variance itself is in Student's t (Korn
        and Graubard 1998). Where the rarer outcome is in fewer than FEWEST_PATIENTS of them, or in none, there is too little to
        tell it from, so each patient counts once.
        """
        counted = trials > 0
        _, member = np.unique(patients[counted], return_inverse=True)
        if not len(member):
            return None
        hits, of = np.bincount(member, successes[counted]), np.bincount(member)
        total, value = of.sum(), hits.sum() / of.sum()
        if min(np.count_nonzero(hits), np.count_nonzero(hits < of)) < FEWEST_PATIENTS:
            return cls(float(value), float(len(of)))
        effect = ((hits - value * of) ** 2).sum() / (total * value * (1 - value))
        certain = student.ppf(0.975, total - 1) / student.ppf(0.975, len(of) - 1)
        return cls(float(value), float(total / max(1.0, effect) * certain**2))

    @property
    def interval(self) -> list[float]:
        """Wilson's, of the effective number of samples."""
        return wilson(self.value * self.trials, self.trials)

    def drawn(self, random: np.random.Generator, count: int) -> np.ndarray:
        """float (count,): rates that it may have come from, by Jeffreys' prior."""
        hits = self.value * self.trials
        return random.beta(hits + 0.5, self.trials - hits + 0.5, count)


@dataclass(frozen=True)
class Resamples:
    """A bootstrap over patients (Efron and Tibshirani 1993): patients are drawn with replacement, each with all of its images.
    The same draws whatever figure is asked for."""

    patients: np.ndarray
    """Any (n,): the patient of each sample."""
    count: int
    seed: int = 0

    def weights(self) -> Iterator[np.ndarray]:
        """float (b, n), ``count`` rows in all: how often each sample was drawn."""
        _, member = np.unique(self.patients, return_inverse=True)
        size = member.max() + 1
        random = np.random.default_rng(self.seed)
        step = max(1, _AT_ONCE // len(member))
        for start in range(0, self.count, step):
            drawn = [
                np.bincount(random.integers(0, size, size), minlength=size)
                for _ in range(min(step, self.count - start))
            ]
            yield np.stack(drawn)[:, member].astype(np.float64)

    def of(self, statistic: Callable[[np.ndarray], dict]) -> dict:
        """Figures of each resample, by name, float (count,). ``statistic``: weights (b, n) to figures (b,) by name, NaN where
        one has no value."""
        parts = [statistic(weights) for weights in self.weights()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentiles(samples: np.ndarray) -> list[float] | None:
    """The percentile interval [low, high] of the resamples (b,) of a figure. None where the figure has no value in one of them,
    which means too few patients, or the same in all, which tells nothing of others."""
    if not len(samples) or not np.isfinite(samples).all() or np.ptp(samples) == 0:
        return None
    return [float(limit) for limit in np.percentile(samples, [2.5, 97.5])]


def logit_interval(value: float | None, samples: np.ndarray) -> list[float] | None:
    """Of a figure between 0 and 1, normal on the scale of log(v / (1 - v)) with the deviation of its resamples (b,): near 1,
    where the percentiles' lower limit is too high. None where the percentiles have none."""
    if value in (None, 0, 1) or percentiles(samples) is None:
        return None
    half = Z * samples.std(ddof=1) / (value * (1 - value))
    return [float(expit(logit(value) - half)), float(expit(logit(value) + half))]


def perfect_auc_interval(positives: int, negatives: int) -> list[float] | None:
    """Of an AUC of 1, in so many positive and negative patients, of which resamples would all give 1 (Newcombe 2006, method 5):
    down to where 1 is 1.96 standard errors away, with Hanley and McNeil's (1982) error for exponential scores."""
    if not positives or not negatives:
        return None
    more = (positives + negatives) / 2 - 1

    def error(area: float) -> float:
        return np.sqrt(
            area
            * (1 - area)
            * (1 + more * (1 - area) / (2 - area) + more * area / (1 + area))
            / (positives * negatives)
        )

    return [float(brentq(lambda area: 1 - area - Z * error(area), 0, 1 - 1e-12)), 1.0]


def mean_of(samples: list[np.ndarray]) -> np.ndarray:
    """The mean of figures, float (b,) each, in each resample, over those that have a value in it; NaN where none has, and
    everywhere where one has a value nowhere, as of too few patients: it would be in the mean and not in its resamples."""
    values = np.stack(samples)
    if np.isnan(values).all(axis=1).any():
        return np.full(values.shape[1], np.nan)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / np.isfinite(values).sum(axis=0)


def basic(value: float, samples: np.ndarray) -> list[float] | None:
    """The basic bootstrap interval (Davison and Hinkley 1997) of a figure that is not below 0: the percentiles mirrored at
    the ``value``, which it holds in any case. For figures that chance drives up, such as the ECE: it does so once more in each
    resample."""
    found = percentiles(samples)
    return found and [max(0.0, min(value, 2 * value - found[1])), max(value, 2 * value - found[0])]
