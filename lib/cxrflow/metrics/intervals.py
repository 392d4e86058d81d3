"""95 % intervals over patients, because images of one patient are not independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtri, stdtrit

MIN_PATIENTS = 10
"""With fewer there is no bootstrap and no variance between patients: what they share by chance would look general."""
Z = float(ndtri(0.975))
_BATCH_WEIGHTS = 2**20  # 8 MB


def wilson(successes: float, trials: float) -> list[float] | None:
    """Wilson (1927) interval [low, high] of a rate of independent trials; None without trials."""
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
    """A share of samples, and its effective sample size."""

    value: float
    trials: float

    @classmethod
    def of(cls, successes: np.ndarray, trials: np.ndarray, patients: np.ndarray) -> Rate | None:
        """The rate of ``successes`` among ``trials``; None without trials.

        The effective sample size is the number of samples divided by the design effect (Kish 1965): the ratio of the
        variance between patients to the variance of independent samples. It is adjusted for the degrees of freedom of
        that variance by Student's t (Korn and Graubard 1998). If the rarer outcome occurs in fewer than MIN_PATIENTS
        patients, the variance cannot be estimated, and each patient counts once.

        Args:
            successes: 0 or 1 (n,), the numerator.
            trials: 0 or 1 (n,), the denominator.
            patients: any (n,).
        """
        counted = trials > 0
        _, member = np.unique(patients[counted], return_inverse=True)
        if not len(member):
            return None
        positives, samples = np.bincount(member, successes[counted]), np.bincount(member)
        total, value = samples.sum(), positives.sum() / samples.sum()
        if min(np.count_nonzero(positives), np.count_nonzero(positives < samples)) < MIN_PATIENTS:
            return cls(float(value), float(len(samples)))
        effect = ((positives - value * samples) ** 2).sum() / (total * value * (1 - value))
        certain = stdtrit(total - 1, 0.975) / stdtrit(len(samples) - 1, 0.975)
        return cls(float(value), float(total / max(1.0, effect) * certain**2))

    @property
    def interval(self) -> list[float]:
        """Wilson's interval with the effective sample size."""
        interval = wilson(self.value * self.trials, self.trials)
        assert interval is not None
        return interval

    def drawn(self, random: np.random.Generator, count: int) -> np.ndarray:
        """float (count,): draws from the posterior of the rate under Jeffreys' prior."""
        successes = self.value * self.trials
        return random.beta(successes + 0.5, self.trials - successes + 0.5, count)


@dataclass(frozen=True)
class Resamples:
    """A bootstrap over patients (Efron and Tibshirani 1993).

    Patients are drawn with replacement, each with all images. The draws are the same for every statistic.
    """

    patients: np.ndarray
    """Any (n,): the patient of each sample."""
    count: int
    seed: int = 0

    def weights(self) -> Iterator[np.ndarray]:
        """Batches of float (b, n), ``count`` rows in total: how often each sample was drawn."""
        _, member = np.unique(self.patients, return_inverse=True)
        size = member.max() + 1
        random = np.random.default_rng(self.seed)
        step = max(1, _BATCH_WEIGHTS // len(member))
        for start in range(0, self.count, step):
            drawn = [
                np.bincount(random.integers(0, size, size), minlength=size)
                for _ in range(min(step, self.count - start))
            ]
            yield np.stack(drawn)[:, member].astype(np.float64)

    def of(self, statistic: Callable[[np.ndarray], dict]) -> dict:
        """The figures of each resample by name, float (count,).

        ``statistic`` maps weights (b, n) to figures (b,) by name, NaN where a figure has no value.
        """
        parts = [statistic(weights) for weights in self.weights()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentiles(samples: np.ndarray) -> list[float] | None:
    """The percentile interval [low, high] of a figure's resamples (b,).

    None if the figure has no value in a resample (too few patients), or the same value in all (no information).
    """
    if not len(samples) or not np.isfinite(samples).all() or np.ptp(samples) == 0:
        return None
    return [float(limit) for limit in np.percentile(samples, [2.5, 97.5])]


def logit_interval(value: float | None, samples: np.ndarray) -> list[float] | None:
    """A normal interval on the logit scale for a figure from 0 to 1, with the standard deviation of its resamples (b,).

    Near 1 the lower limit of the percentile interval would be too high. None where ``percentiles`` is None.
    """
    if value is None or value in (0, 1) or percentiles(samples) is None:
        return None
    half = Z * samples.std(ddof=1) / (value * (1 - value))
    return [float(expit(logit(value) - half)), float(expit(logit(value) + half))]


def perfect_auc_interval(positives: int, negatives: int) -> list[float] | None:
    """The interval of an AUC of 1 from the numbers of positive and negative patients (Newcombe 2006, method 5).

    A bootstrap would give 1 in every resample. The lower limit is the AUC from which 1 is 1.96 standard errors away,
    with the standard error of Hanley and McNeil (1982) for exponential scores. None without positive or negative
    patients.
    """
    if not positives or not negatives:
        return None
    extra = (positives + negatives) / 2 - 1

    def error(area: float) -> float:
        return np.sqrt(
            area
            * (1 - area)
            * (1 + extra * (1 - area) / (2 - area) + extra * area / (1 + area))
            / (positives * negatives)
        )

    return [float(brentq(lambda area: 1 - area - Z * error(area), 0, 1 - 1e-12)), 1.0]


def mean_of(samples: list[np.ndarray]) -> np.ndarray:
    """The mean of several figures, float (b,) each, in each resample.

    A figure without a value in a resample is left out there. A figure without a value in any resample (too few
    patients) makes all means NaN, because it would count in the mean itself but not in its resamples.
    """
    values = np.stack(samples)
    if np.isnan(values).all(axis=1).any():
        return np.full(values.shape[1], np.nan)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / np.isfinite(values).sum(axis=0)


def basic(value: float, samples: np.ndarray) -> list[float] | None:
    """The basic bootstrap interval (Davison and Hinkley 1997) of a non-negative figure; it always contains ``value``.

    It mirrors the percentiles at the value. This suits figures that chance biases upwards, such as the ECE, because
    resampling adds the same bias again.
    """
    found = percentiles(samples)
    return found and [max(0.0, min(value, 2 * value - found[1])), max(value, 2 * value - found[0])]
