"""Properties of the epoch plan, for any shards, workers, batch sizes and seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrflow.training.epoch_plan import EpochPlan
from cxrflow.training.shuffle_quality import global_order

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


def with_changes(plan: EpochPlan, **changes) -> EpochPlan:
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
        fed = len(plan.schedule(worker).rows)
        assert fed == len(plan.worker_positions(worker))
        assert (plan.steps - 1) * plan.batch_size <= fed <= plan.steps * plan.batch_size
    assert sum(plan.step_samples(step) for step in range(plan.steps)) == plan.samples
    assert all(plan.step_samples(step) > 0 for step in range(plan.steps))


@given(plans)
@settings(max_examples=100, deadline=None)
def test_the_weighted_mean_over_workers_is_that_of_the_samples(plan):
    """Each worker averages its B rows, in which padding has weight 0. Then the workers' means are averaged."""
    values = np.random.default_rng(0).normal(size=plan.samples)
    fed = values[global_order(plan)]
    for step in range(plan.steps):
        samples = fed[plan.fed_before(step) : plan.fed_before(step + 1)]
        weight = plan.workers * plan.batch_size / plan.step_samples(step)
        means = [weight * samples[worker :: plan.workers].sum() / plan.batch_size for worker in range(plan.workers)]
        assert np.mean(means) == pytest.approx(samples.mean())


@given(plans, st.integers(1, 24))
@settings(max_examples=200, deadline=None)
def test_the_global_order_does_not_depend_on_the_number_of_workers(plan, workers):
    np.testing.assert_array_equal(global_order(plan), global_order(with_changes(plan, workers=workers, batch_size=4)))


@given(plans, st.integers(1, 24), st.data())
@settings(max_examples=200, deadline=None)
def test_an_epoch_that_resumes_feeds_exactly_the_missing_samples(plan, workers, data):
    fed = data.draw(st.integers(0, plan.samples))
    rest = with_changes(plan, workers=workers, batch_size=3, first_sample=fed)
    np.testing.assert_array_equal(global_order(rest), global_order(plan)[fed:])
    assert sum(rest.step_samples(step) for step in range(rest.steps)) == plan.samples - fed


@given(plans)
@settings(max_examples=200, deadline=None)
def test_reads_are_in_order_of_first_use_and_no_stream_holds_more_than_a_window(plan):
    for worker in range(plan.workers):
        schedule = plan.schedule(worker)
        first, last, samples = schedule.first, schedule.last, np.arange(len(schedule.reads))
        assert (np.diff(first) > 0).all() and (last >= first).all()
        assert (first[schedule.reads] <= samples).all() and (samples <= last[schedule.reads]).all()
        rows = np.array(plan.shard_rows)[schedule.shards]
        held = max((rows[(first <= sample) & (sample <= last)].sum() for sample in samples), default=0)
        assert held == schedule.most_held(rows)
        window = plan.shuffle_rows // plan.streams if plan.shuffle else 1
        # The stream may use only a part of the shards at both ends of a window, but holds them whole.
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
