"""Random numbers that depend on (seed, epoch, sample) only, by a counter-based generator.

SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014; constants from Vigna's
public-domain splitmix64.c) turns a counter into random bits by a multiplicative hash. So NumPy computes all numbers of
a batch at once, in 1.4 us per image. A NumPy Generator per image takes 10 us (Philox with a given key) to 16 us
(default_rng).
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seed: int, epoch: int, sample_ids: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` numbers for each sample: float64 (B, count), from 0 to below 1. ``sample_ids``: int64 (B,).

    A row depends on its sample id, the seed and the epoch only. A larger count appends numbers and changes none.
    """
    state = np.zeros(len(sample_ids), np.uint64)
    for word in (seed, epoch, sample_ids):
        bits = np.uint64(word % 2**64) if isinstance(word, int) else np.asarray(word, np.int64).view(np.uint64)
        state = _mix((state ^ bits) + _GOLDEN)
    return (splitmix64(state, count) >> np.uint64(11)) * 2.0**-53


def splitmix64(states: np.ndarray, count: int) -> np.ndarray:
    """Return the first ``count`` outputs of SplitMix64 from each state: uint64 (B, count) from uint64 (B,)."""
    return _mix(states[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
