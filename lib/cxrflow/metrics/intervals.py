"""95 % intervals: Wilson's of a rate, and the bootstrap over patients of any figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

_AT_ONCE = 2**20  # weights, 8 MB


def wilson(successes: int, trials: int) -> list[float] | None:
    """95 % interval of a rate (Wilson 1927): [low, high], or None for no trials. It takes the trials for independent,
    which images of one patient are not."""
    if trials == 0:
        return None
    interval = binomtest(int(successes), int(trials)).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


@dataclass(frozen=True)
class Resamples:
    """A bootstrap over patients (Efron and Tibshirani 1993): images of one patient are not independent, so patients are
    drawn with replacement, each with all of its images. The same draws whatever figure is asked for."""

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
            drawn = [np.bincount(random.integers(0, size, size), minlength=size) for _ in range(min(step, self.count - start))]
            yield np.stack(drawn)[:, member].astype(np.float64)

    def of(self, statistic: Callable[[np.ndarray], dict]) -> dict:
        """Figures of each resample, by name, float (count,). ``statistic``: weights (b, n) to figures (b,) by name, NaN where
        one has no value."""
        parts = [statistic(weights) for weights in self.weights()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentiles(samples: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval [low, high] of the resamples (b,) of a figure; None where the figure has no value in one
    of them, which means too few patients."""
    if not len(samples) or not np.isfinite(samples).all():
        return None
    return [float(limit) for limit in np.percentile(samples, [2.5, 97.5])]


def mean_of(samples: list[np.ndarray]) -> np.ndarray:
    """The mean of figures, float (b,) each, in each resample, over those that have a value in it; NaN where none has."""
    values = np.stack(samples)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / np.isfinite(values).sum(axis=0)


def basic(value: float, samples: np.ndarray) -> list[float] | None:
    """The basic bootstrap interval (Davison and Hinkley 1997) of a figure that is not below 0: the percentiles mirrored at
    the ``value``. For figures that chance drives up, such as the ECE: it does so once more in each resample."""
    found = percentiles(samples)
    return found and [max(0.0, 2 * value - found[1]), max(0.0, 2 * value - found[0])]
