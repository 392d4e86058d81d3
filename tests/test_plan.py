import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrflow.training.epoch_plan import EpochPlan
from cxrflow.training.shuffle_quality import batch_variance, global_order, rank_correlation

plans = st.builds(
    EpochPlan,
    shard_rows=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    workers=st.integers(1, 7),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
    shuffle=st.booleans(),
    shuffle_rows=st.integers(1, 400),
    streams=st.sampled_from([1, 2, 5, 24]),
)


def changed(plan: EpochPlan, **changes) -> EpochPlan:
    fields = (
        "shard_rows",
        "workers",
        "batch_size",
        "seed",
        "epoch",
        "shuffle",
        "shuffle_rows",
        "streams",
        "first_sample",
    )
    return EpochPlan(**{name: getattr(plan, name) for name in fields} | changes)


@given(plans)
@settings(max_examples=300, deadline=None)
def test_every_sample_exactly_once(plan):
    assert sorted(global_order(plan)) == list(range(plan.samples))


@given(plans)
@settings(max_examples=100, deadline=None)
def test_every_worker_makes_the_same_steps(plan):
    """A worker feeds B samples at every step but the last, where all together feed what is left."""
    for worker in range(plan.workers):
        fed = len(plan.order(worker).rows)
        assert fed == len(plan.worker_positions(worker))
        assert (plan.steps - 1) * plan.batch_size <= fed <= plan.steps * plan.batch_size
    assert sum(plan.step_samples(step) for step in range(plan.steps)) == plan.samples
    assert all(plan.step_samples(step) > 0 for step in range(plan.steps))


@given(plans)
@settings(max_examples=100, deadline=None)
def test_the_weighted_mean_over_workers_is_that_of_the_true_samples(plan):
    """A worker averages its B rows, of which those that fill up weigh nothing; the workers' means are averaged."""
    values = np.random.default_rng(0).normal(size=plan.samples)
    fed = values[global_order(plan)]
    for step in range(plan.steps):
        true = fed[plan.fed_before(step) : plan.fed_before(step + 1)]
        weight = plan.workers * plan.batch_size / plan.step_samples(step)
        means = [weight * true[worker :: plan.workers].sum() / plan.batch_size for worker in range(plan.workers)]
        assert np.mean(means) == pytest.approx(true.mean())


@given(plans, st.integers(1, 24))
@settings(max_examples=200, deadline=None)
def test_the_global_order_does_not_depend_on_the_number_of_workers(plan, workers):
    np.testing.assert_array_equal(global_order(plan), global_order(changed(plan, workers=workers, batch_size=4)))


@given(plans, st.integers(1, 24), st.data())
@settings(max_examples=200, deadline=None)
def test_going_on_inside_an_epoch_feeds_exactly_what_is_missing(plan, workers, data):
    fed = data.draw(st.integers(0, plan.samples))
    rest = changed(plan, workers=workers, batch_size=3, first_sample=fed)
    np.testing.assert_array_equal(global_order(rest), global_order(plan)[fed:])
    assert sum(rest.step_samples(step) for step in range(rest.steps)) == plan.samples - fed


@given(plans)
@settings(max_examples=200, deadline=None)
def test_reads_are_listed_in_the_order_of_their_need_and_no_stream_holds_more_than_a_window(plan):
    for worker in range(plan.workers):
        order = plan.order(worker)
        assert (np.diff(order.first) > 0).all() and (order.last >= order.first).all()
        places = np.arange(len(order.reads))
        assert (order.first[order.reads] <= places).all() and (places <= order.last[order.reads]).all()
        rows = np.array(plan.shard_rows)[order.shards]
        held = max((rows[(order.first <= place) & (place <= order.last)].sum() for place in places), default=0)
        assert held == order.most_held(rows)
        window = plan.shuffle_rows // plan.streams if plan.shuffle else 1
        # A window's slices may be cut at both ends of the stream, and a shard is held whole.
        assert held <= len(plan.streams_of(worker)) * (max(1, window) + 2 * max(plan.shard_rows) - 2)


@pytest.mark.parametrize(("shard_rows", "workers"), [([7], 1), ([7], 3), ([1], 4), ([1, 1], 5), ([40, 1], 2)])
def test_few_shards_one_shard_and_fewer_shards_than_workers(shard_rows, workers):
    plan = EpochPlan(shard_rows=shard_rows, workers=workers, batch_size=2, seed=0, epoch=0)
    assert sorted(global_order(plan)) == list(range(sum(shard_rows)))


def test_another_epoch_and_another_seed_give_another_order():
    orders = {
        tuple(global_order(EpochPlan(shard_rows=[10] * 10, workers=2, batch_size=4, seed=seed, epoch=epoch)))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize(
    ("shards", "rows", "shuffle_rows", "workers", "limit"),
    [
        (82, 64, 8192, 1, 1.1),  # the 5,216 files
        (82, 64, 8192, 4, 1.3),
        (200, 25, 1200, 1, 1.3),
        (2000, 128, 8192, 1, 1.3),
        (2000, 128, 24, 1, 1.7),  # the least memory: one shard of each stream at a time
    ],
)
def test_a_table_sorted_by_class_is_mixed_almost_like_a_perfect_shuffle(shards, rows, shuffle_rows, workers, limit):
    plans = [
        EpochPlan(
            shard_rows=[rows] * shards, workers=workers, batch_size=32, seed=0, epoch=epoch, shuffle_rows=shuffle_rows
        )
        for epoch in range(6)
    ]
    assert np.mean([batch_variance(plan) for plan in plans]) < limit
    assert abs(np.mean([rank_correlation(plan) for plan in plans])) < 0.05


def test_the_measures_know_an_unshuffled_table():
    plan = EpochPlan(shard_rows=[64] * 20, workers=1, batch_size=32, seed=0, epoch=0, shuffle=False, streams=1)
    assert rank_correlation(plan) == pytest.approx(1) and batch_variance(plan) > 20
