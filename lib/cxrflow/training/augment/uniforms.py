"""Random numbers that depend on (seed, epoch, sample) alone: counted, not drawn one after another.

SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014; the constants are those of
Vigna's public-domain splitmix64.c) turns a counter into random bits by one multiplicative hash, so NumPy computes all
numbers of a batch at once: 1.4 us an image, where a numpy Generator for each image costs 10 (Philox with a given
key) to 16 us (default_rng).
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seed: int, epoch: int, sample_ids: np.ndarray, count: int) -> np.ndarray:
    """``count`` numbers for each sample: float64 (B, count), at least 0 and below 1. ``sample_ids``: int64 (B,).

    A row depends on its sample id, the seed and the epoch; it starts with the same numbers whatever the count.
    """
    state = np.zeros(len(sample_ids), np.uint64)
    for word in (seed, epoch, sample_ids):
        bits = np.uint64(word % 2**64) if isinstance(word, int) else np.asarray(word, np.int64).view(np.uint64)
        state = _mix((state ^ bits) + _GOLDEN)
    return (splitmix64(state, count) >> np.uint64(11)) * 2.0**-53


def splitmix64(states: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` outputs of SplitMix64 from each state: uint64 (B, count), from uint64 (B,)."""
    return _mix(states[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
