"""Calibration: whether 8 of 10 images with a score of 0.8 have the finding, and the temperature that makes it so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from cxrflow.metrics.intervals import Rate

BINS = 15  # as in Guo et al. 2017, so that figures compare
_TEMPERATURES = (0.05, 20.0)
_SMALLEST = 1e-7  # about the distance of 1 from the next smaller float32 score


def logit(scores: np.ndarray) -> np.ndarray:
    """log(s / (1 - s)) of scores s from 0 to 1, finite also at 0 and 1."""
    scores = np.clip(np.asarray(scores, np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.log(scores) - np.log1p(-scores)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature, from 0.05 to 20, that maximises the likelihood of the labels (Guo et al. 2017).

    Logits are divided by it. Above 1, the model was overconfident.

    Labels are smoothed by Laplace's rule of succession: the probability of a sample's own label is (n + 1) / (n + K)
    instead of 1. This only matters where the logits separate the labels completely. There the best temperature would be
    0, and every score 0 or 1.

    Args:
        logits: float (n, K).
        truth: int (n,) for a softmax; float (n, K) for a sigmoid each.

    Raises:
        ValueError: there is no sample with a known label.
    """
    logits = np.asarray(logits, np.float64)
    _require_rows(logits, truth)
    loss = _softmax_loss(logits, truth) if truth.ndim == 1 else _sigmoid_loss(logits, truth)
    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(
        lambda log_temperature: loss(np.exp(-log_temperature)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def _softmax_loss(logits: np.ndarray, truth: np.ndarray) -> Callable[[float], float]:
    """Mean cross-entropy, in nats, as a function of the factor on the logits; it is convex."""
    count, labels = logits.shape
    target = np.full(logits.shape, 1 / (count + labels))
    target[np.arange(count), truth] += count / (count + labels)
    return lambda factor: -(target * log_softmax(logits * factor, axis=1)).sum() / count


def _sigmoid_loss(logits: np.ndarray, truth: np.ndarray) -> Callable[[float], float]:
    known = ~np.isnan(truth)
    count = known.sum()
    logits, target = logits[known], (truth[known] * count + 1) / (count + 2)
    return lambda factor: (np.logaddexp(0, logits * factor) - target * logits * factor).sum() / count


def with_temperature(logits: np.ndarray, temperature: float, multi: bool = False) -> np.ndarray:
    """Scores (n, K) of logits (n, K) at a temperature."""
    return expit(logits / temperature) if multi else softmax(logits / temperature, axis=1)


def tempered(scores: np.ndarray, temperature: float, multi: bool = False) -> np.ndarray:
    """Scores (n, K) after dividing their logits by the temperature. Temperature 1 / T undoes T."""
    if multi:
        return expit(logit(scores) / temperature)
    return softmax(np.log(np.maximum(np.asarray(scores, np.float64), 1e-30)) / temperature, axis=1)


def bin_of(scores: np.ndarray) -> np.ndarray:
    """int (n,): the index of each score's bin among BINS bins of equal width."""
    return np.minimum((np.asarray(scores, np.float64) * BINS).astype(int), BINS - 1)


def reliability(positive: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> list[dict]:
    """The bins of a reliability diagram that are not empty.

    Each has its ends ``low`` and ``high``, ``n``, the mean ``score``, and the ``share`` of positive samples with its
    ``interval`` (``Rate``). ``positive``: bool (n,); ``scores``: float (n,); ``patients``: any (n,).
    """
    bins, found = bin_of(scores), []
    for index in np.unique(bins).tolist():
        inside = bins == index
        share = Rate.of(positive, inside, patients)
        assert share is not None
        found.append(
            {
                "low": index / BINS,
                "high": (index + 1) / BINS,
                "n": int(inside.sum()),
                "score": float(scores[inside].mean()),
                "share": share.value,
                "interval": share.interval,
            }
        )
    return found


def ece(positive: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015) over 15 bins of equal width.

    It is the mean over samples of the distance between the mean score and the share of positive samples of their bin.
    """
    return float(np.abs(np.bincount(bin_of(scores), positive - scores)).sum() / len(scores))


def ece_of_calibrated(scores: np.ndarray, patients: np.ndarray, draws: int = 200, seed: int = 0) -> np.ndarray:
    """float (draws,): the ECE that scores (n,) would have by chance if they were perfectly calibrated.

    Labels are drawn with the scores as probabilities (Broecker and Smith 2007). The ECE of such labels is above 0, the
    more the fewer samples there are, so an ECE in this range is no sign of miscalibration. All images of a patient
    (``patients``: any (n,)) use the same random number. This is the conservative extreme, where they are fully
    correlated.
    """
    random = np.random.default_rng(seed)
    names, member = np.unique(patients, return_inverse=True)
    return np.array([ece(random.random(len(names))[member] < scores, scores) for _ in range(draws)])


def _require_rows(logits: np.ndarray, truth: np.ndarray) -> None:
    if not len(logits) or len(logits) != len(truth) or (truth.ndim == 2 and np.isnan(truth).all()):
        raise ValueError(
            f"expected at least one row of logits with a known truth, got shapes {logits.shape} and {truth.shape}"
        )
