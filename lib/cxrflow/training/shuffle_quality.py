"""How well an epoch's order shuffles the table. NumPy only; O(N log N) for N samples, and no image is read."""

from __future__ import annotations

import numpy as np

from cxrflow.training.epoch_plan import EpochPlan


def global_order(plan: EpochPlan) -> np.ndarray:
    """int64 (N - F,): the samples in the order in which all workers together feed them.

    A sample is given as its row in the table, counted through all shards.
    """
    starts = np.cumsum([0, *plan.shard_rows])[:-1]
    fed = np.zeros(plan.samples - plan.first_sample, np.int64)
    for worker in range(plan.workers):
        schedule = plan.schedule(worker)
        positions = plan.worker_positions(worker) - plan.first_sample
        fed[positions] = starts[schedule.shards[schedule.reads]] + schedule.rows
    return fed


def rank_correlation(plan: EpochPlan) -> float:
    """Spearman's correlation between a sample's row in the table and its position in the epoch.

    1 means not shuffled. A perfect shuffle of N samples has 0 +- 1 / sqrt(N).
    """
    fed = global_order(plan)
    return float(np.corrcoef(fed, np.arange(len(fed)))[0, 1]) if len(fed) > 1 else 1.0


def batch_variance(plan: EpochPlan, share: float = 0.5) -> float:
    """How unevenly a table that is sorted by class fills the global batches. 1 is a perfect shuffle.

    The last ``share`` of the table's samples have label 1, the others 0. The result is the variance of the batches'
    mean label, divided by the variance for batches drawn at random without replacement. NaN for fewer than two batches
    or a single class.
    """
    labels = global_order(plan) >= round(plan.samples * (1 - share))
    size = plan.workers * plan.batch_size
    means = labels[: len(labels) // size * size].reshape(-1, size).mean(axis=1)
    mean = labels.mean()
    # The variance of a sample's mean without replacement: with finite population correction.
    ideal = mean * (1 - mean) / size * (len(labels) - size) / max(1, len(labels) - 1)
    return float(((means - mean) ** 2).mean() / ideal) if len(means) > 1 and ideal > 0 else float("nan")
