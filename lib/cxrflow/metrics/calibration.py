"""Whether a score of 0.8 means that 8 of 10 such images have the finding, and the temperature that makes it so."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from cxrflow.metrics.intervals import Rate

BINS = 15  # as in Guo et al. 2017, so that figures compare
_TEMPERATURES = (0.05, 20.0)
_SMALLEST = 1e-7  # a float32 score cannot tell higher ones than 1 minus this


def logit(scores: np.ndarray) -> np.ndarray:
    """log(s / (1 - s)) of scores from 0 to 1, finite at their ends."""
    scores = np.clip(np.asarray(scores, np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.log(scores) - np.log1p(-scores)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The number by which to divide logits (n, K) so that the truth is likeliest (Guo et al. 2017), from 0.05 to 20.
    Above 1, the model was too sure of itself. ``truth``: int (n,) for a softmax; float (n, K) for a sigmoid each.

    The truth is smoothed by Laplace's rule of succession: the label of a sample is taken for certain to (n + 1) / (n + K)
    only. It hardly matters, but where the logits part the labels wholly: there, the likeliest temperature would be 0, and
    every score 0 or 1.
    """
    logits = np.asarray(logits, np.float64)
    _require_rows(logits, truth)
    loss = _softmax_loss(logits, truth) if truth.ndim == 1 else _sigmoid_loss(logits, truth)
    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(
        lambda place: loss(np.exp(-place)), bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def _softmax_loss(logits: np.ndarray, truth: np.ndarray):
    """Mean cross-entropy, in nats, of the logits times a factor; convex in the factor."""
    count, labels = logits.shape
    target = np.full(logits.shape, 1 / (count + labels))
    target[np.arange(count), truth] += count / (count + labels)
    return lambda factor: -(target * log_softmax(logits * factor, axis=1)).sum() / count


def _sigmoid_loss(logits: np.ndarray, truth: np.ndarray):
    known = ~np.isnan(truth)
    count = known.sum()
    logits, target = logits[known], (truth[known] * count + 1) / (count + 2)
    return lambda factor: (np.logaddexp(0, logits * factor) - target * logits * factor).sum() / count


def with_temperature(logits: np.ndarray, temperature: float, multi: bool = False) -> np.ndarray:
    """The scores of logits (n, K)."""
    return expit(logits / temperature) if multi else softmax(logits / temperature, axis=1)


def tempered(scores: np.ndarray, temperature: float, multi: bool = False) -> np.ndarray:
    """Scores (n, K) as they are with their logits divided by the temperature; by 1 / T, what they were before T."""
    if multi:
        return expit(logit(scores) / temperature)
    return softmax(np.log(np.maximum(np.asarray(scores, np.float64), 1e-30)) / temperature, axis=1)


def bin_of(scores: np.ndarray) -> np.ndarray:
    """int (n,): which of BINS bins of equal width holds a score."""
    return np.minimum((np.asarray(scores, np.float64) * BINS).astype(int), BINS - 1)


def reliability(positive: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> list[dict]:
    """The reliability diagram: of each bin that is not empty its ``low`` and ``high`` end, ``n``, mean ``score``, and the
    ``share`` of positive samples with the ``interval`` of ``Rate``. ``positive``: bool (n,); ``scores``: float (n,);
    ``patients``: any (n,)."""
    bins, found = bin_of(scores), []
    for place in np.unique(bins).tolist():
        inside = bins == place
        share = Rate.of(positive, inside, patients)
        found.append(
            {
                "low": place / BINS,
                "high": (place + 1) / BINS,
                "n": int(inside.sum()),
                "score": float(scores[inside].mean()),
                "share": share.value,
                "interval": share.interval,
            }
        )
    return found


def ece(positive: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean distance, over samples, between their bin's mean score and
    its share of positive samples, in 15 bins of equal width."""
    return float(np.abs(np.bincount(bin_of(scores), positive - scores)).sum() / len(scores))


def ece_of_calibrated(scores: np.ndarray, patients: np.ndarray, draws: int = 200, seed: int = 0) -> np.ndarray:
    """float (draws,): the ECE that scores (n,) would have if they were perfectly calibrated (Broecker and Smith 2007), with
    the truth drawn from the scores themselves. It is above 0, and more so for few samples; an ECE among these is no sign of
    miscalibration. ``patients``: any (n,); the images of one share their luck, as those of one disease do, which is the least
    that so many images can tell."""
    random = np.random.default_rng(seed)
    names, member = np.unique(patients, return_inverse=True)
    return np.array([ece(random.random(len(names))[member] < scores, scores) for _ in range(draws)])


def _require_rows(logits: np.ndarray, truth: np.ndarray) -> None:
    if not len(logits) or len(logits) != len(truth) or (truth.ndim == 2 and np.isnan(truth).all()):
        raise ValueError(
            f"expected a known truth for each of at least one row of logits, got {logits.shape} and {truth.shape}"
        )
