import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrflow.training.plan import EpochPlan

plans = st.builds(
    EpochPlan, shard_rows=st.lists(st.integers(1, 40), min_size=1, max_size=20), workers=st.integers(1, 7),
    batch_size=st.integers(1, 50), seed=st.integers(0, 9), epoch=st.integers(0, 9), shuffle=st.booleans(),
    shuffle_rows=st.integers(1, 400))


def rows_of(plan: EpochPlan, worker: int) -> list[tuple[int, int]]:
    """The (shard, row) pairs that a worker feeds, in order."""
    fed = []
    for block in plan.blocks(worker):
        flat = [(piece.shard, row) for piece in block.slices for row in range(piece.start, piece.stop)]
        fed += [flat[place] for place in block.order]
    return fed


def global_order(plan: EpochPlan) -> list[tuple[int, int]]:
    order = {}
    for worker in range(plan.workers):
        for place, row in enumerate(rows_of(plan, worker)):
            order[worker + place * plan.workers] = row
    return [order[place] for place in sorted(order)]


@given(plans)
@settings(max_examples=200, deadline=None)
def test_every_sample_exactly_once(plan):
    everything = [(shard, row) for shard, rows in enumerate(plan.shard_rows) for row in range(rows)]
    assert sorted(global_order(plan)) == everything


@given(plans)
@settings(max_examples=100, deadline=None)
def test_no_worker_feeds_more_than_its_steps_hold(plan):
    for worker in range(plan.workers):
        assert len(rows_of(plan, worker)) == plan.worker_samples(worker) <= plan.steps * plan.batch_size
    assert sum(plan.step_samples(step) for step in range(plan.steps)) == plan.samples
    assert all(plan.step_samples(step) > 0 for step in range(plan.steps))


@given(plans, st.sampled_from([2, 3, 4, 6, 8, 12, 24]))
@settings(max_examples=100, deadline=None)
def test_the_global_order_does_not_depend_on_the_number_of_workers(plan, workers):
    changes = {"shard_rows": plan.shard_rows, "batch_size": 4, "seed": plan.seed, "epoch": plan.epoch,
               "shuffle": plan.shuffle, "shuffle_rows": plan.shuffle_rows}
    assert global_order(EpochPlan(workers=1, **changes)) == global_order(EpochPlan(workers=workers, **changes))


def test_another_epoch_and_another_seed_give_another_order():
    orders = {tuple(global_order(EpochPlan(shard_rows=[10] * 10, workers=2, batch_size=4, seed=seed, epoch=epoch)))
              for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("shuffle_rows", [1200, 5000])
def test_a_table_sorted_by_class_is_mixed_almost_like_a_perfect_shuffle(shuffle_rows):
    shard_rows, batch = [25] * 200, 32  # the first half of the shards is one class, the second the other
    ratios = []
    for epoch in range(20):
        plan = EpochPlan(shard_rows=shard_rows, workers=1, batch_size=batch, seed=0, epoch=epoch,
                         shuffle_rows=shuffle_rows)
        labels = np.array([shard >= 100 for shard, _ in global_order(plan)])
        means = labels[: len(labels) // batch * batch].reshape(-1, batch).mean(axis=1)
        ratios.append(means.var() / (0.25 / batch))
    assert np.mean(ratios) < 1.6 if shuffle_rows == 1200 else np.mean(ratios) < 1.1
