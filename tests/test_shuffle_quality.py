"""How well the epoch plan shuffles tables of several shapes."""

import numpy as np
import pytest

from cxrflow.training.epoch_plan import EpochPlan
from cxrflow.training.shuffle_quality import batch_variance, rank_correlation


@pytest.mark.parametrize(
    ("shards", "rows", "shuffle_rows", "workers", "limit"),
    [
        (82, 64, 8192, 1, 1.1),  # 5,216 images
        (82, 64, 8192, 4, 1.3),
        (200, 25, 1200, 1, 1.3),
        (2000, 128, 8192, 1, 1.3),
        (2000, 128, 24, 1, 1.7),  # with the least memory: one shard of each stream at a time
    ],
)
def test_a_table_sorted_by_class_is_shuffled_almost_perfectly(shards, rows, shuffle_rows, workers, limit):
    plans = [
        EpochPlan(
            shard_rows=[rows] * shards, workers=workers, batch_size=32, seed=0, epoch=epoch, shuffle_rows=shuffle_rows
        )
        for epoch in range(6)
    ]
    assert np.mean([batch_variance(plan) for plan in plans]) < limit
    assert abs(np.mean([rank_correlation(plan) for plan in plans])) < 0.05


def test_the_measures_detect_an_unshuffled_table():
    plan = EpochPlan(shard_rows=[64] * 20, workers=1, batch_size=32, seed=0, epoch=0, shuffle=False, streams=1)
    assert rank_correlation(plan) == pytest.approx(1) and batch_variance(plan) > 20
