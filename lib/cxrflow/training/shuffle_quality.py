"""How well an epoch's order mixes the table. NumPy only; costs O(N log N) for N samples, and no image is read."""

from __future__ import annotations

import numpy as np

from cxrflow.training.epoch_plan import EpochPlan


def global_order(plan: EpochPlan) -> np.ndarray:
    """int64 (N - F,): the samples' places in the table, shard after shard, in the order in which all workers feed
    them."""
    starts = np.cumsum([0, *plan.shard_rows])[:-1]
    fed = np.zeros(plan.samples - plan.first_sample, np.int64)
    for worker in range(plan.workers):
        order = plan.order(worker)
        fed[plan.worker_positions(worker) - plan.first_sample] = starts[order.shards[order.reads]] + order.rows
    return fed


def rank_correlation(plan: EpochPlan) -> float:
    """Spearman's correlation between a sample's place in the table and in the epoch: 1 is unshuffled, and a perfect
    shuffle of N samples has 0 +- 1 / sqrt(N)."""
    fed = global_order(plan)
    return float(np.corrcoef(fed, np.arange(len(fed)))[0, 1]) if len(fed) > 1 else 1.0


def batch_variance(plan: EpochPlan, share: float = 0.5) -> float:
    """Variance of the global batches' mean label on a table sorted by class, divided by that of batches drawn at
    random without putting back: 1 is a perfect shuffle.

    ``share`` of the table's samples, those at its end, have label 1. NaN with fewer than two batches or one class.
    """
    labels = global_order(plan) >= round(plan.samples * (1 - share))
    size = plan.workers * plan.batch_size
    means = labels[: len(labels) // size * size].reshape(-1, size).mean(axis=1)
    mean = labels.mean()
    ideal = mean * (1 - mean) / size * (len(labels) - size) / max(1, len(labels) - 1)
    return float(((means - mean) ** 2).mean() / ideal) if len(means) > 1 and ideal > 0 else float("nan")
