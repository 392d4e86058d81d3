"""The events that a training reports, on a clock that the test moves."""

import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.training import progress
from cxrflow.training.epoch_plan import EpochPlan
from cxrflow.training.progress import Progress
from cxrflow.watch.events import FIELDS

TRAIN, VAL = [100] * 10, [100] * 3  # 100 and 30 steps of two workers
FEED, STEP, ALL_REDUCE, SCORE, COMPILE = 0.5, 1.0, 0.25, 0.4, 20.0


class FakeClock:
    """A clock that only the simulated training moves."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def plan(rows, epoch=0, first=0):
    return EpochPlan(shard_rows=rows, workers=2, batch_size=5, seed=0, epoch=epoch, first_sample=first)


def simulate(monkeypatch, epochs, first=0, rank=0, workers=2):
    """Return the events of a training whose phases take a known time, each with its time ``at``, and when it ended."""
    clock, events = FakeClock(), []
    monkeypatch.setattr(progress, "time", clock)
    worker = Worker()
    worker.rank, worker.size = rank, workers
    reduced = [0.0]
    worker.all_reduce_seconds = lambda: reduced[0]
    worker.report_event = lambda event: events.append({**event, "at": clock.now})
    reports = Progress(
        TrainConfig(table="t", run="r", epochs=epochs, batch_size=5, tta=1), worker, plan(TRAIN), plan(VAL)
    )
    reports.start(0, first, "torch")
    for epoch in range(epochs):
        left = plan(TRAIN, epoch, first if epoch == 0 else 0)
        reports.begin_epoch(epoch, left)
        for step in range(left.steps):
            clock.now += FEED
            reports.mark("feed")
            clock.now += STEP + (COMPILE if epoch == step == 0 else 0.0)
            reduced[0] += ALL_REDUCE
            reports.mark("step")
            reports.step(step, float(step), lambda: 0.125)
        clock.now += SCORE * 30
        reports.checkpoint(epoch + 1, 0)
        reports.end_epoch(
            {
                "epoch": epoch + 1,
                "loss": 0.5,
                "val_loss": 0.5,
                "val_auc": 0.5,
                "val_accuracy": 0.5,
                "learning_rate": 0.1,
                "images_per_second": 6.0,
                "seconds": 1.0,
                "all_reduce_share": 0.1,
                "fed": {"samples": 1000},
            }
        )
    return events, clock.now + SCORE * 30  # validation of the saved model


def of(events, kind):
    return [event for event in events if event["event"] == kind]


def test_time_left_counts_validation_and_all_epochs(monkeypatch):
    events, end = simulate(monkeypatch, epochs=4)
    steps, epochs = of(events, "step"), of(events, "epoch")
    assert [event["seconds_left"] for event in epochs] == pytest.approx([end - event["at"] for event in epochs])
    measured = [event for event in steps if event["epoch"] > 1]
    assert [event["seconds_left"] for event in measured] == pytest.approx([end - event["at"] for event in measured])
    # Before the first validation its time is estimated: a third of 1.5 s per step, where it takes 0.4.
    guessed = [event for event in steps if event["epoch"] == 1]
    assert [event["seconds_left"] for event in guessed] == pytest.approx(
        [end - event["at"] + 5 * 30 * (0.5 - SCORE) for event in guessed]
    )


def test_steps_are_reported_every_five_seconds_and_at_the_end_of_an_epoch(monkeypatch):
    events, _ = simulate(monkeypatch, epochs=2)
    steps = of(events, "step")
    # 1.5 s per step: every fourth is the first after five seconds. The very first step, which compiles, does not count.
    assert [event["step"] for event in steps] == [*range(5, 100, 4), 100, *range(4, 101, 4)]
    assert [event["images"] for event in steps[:2]] == [50, 90] and steps[-1]["images"] == 2000
    assert steps[0]["loss"] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert {event["learning_rate"] for event in steps} == {0.125}
    for event in steps:
        assert event["images_per_second"] == pytest.approx(10 / 1.5)
        assert event["feed_share"] == pytest.approx(1 / 3) and event["step_share"] == pytest.approx(2 / 3)
        assert event["all_reduce_share"] == pytest.approx(ALL_REDUCE / 1.5)
    alone, _ = simulate(monkeypatch, epochs=1, workers=1)
    assert not any("all_reduce_share" in event for event in of(alone, "step"))


def test_images_continue_where_a_run_resumes(monkeypatch):
    events, _ = simulate(monkeypatch, epochs=2, first=900)
    assert of(events, "start")[0]["images"] == 900
    assert [(event["step"], event["steps"], event["images"]) for event in of(events, "step")][:4] == [
        (5, 10, 950),
        (9, 10, 990),
        (10, 10, 1000),
        (4, 100, 1040),
    ]
    assert [event["images"] for event in of(events, "epoch")] == [1000, 2000]
    assert [event["images"] for event in of(events, "checkpoint")] == [1000, 2000]


def test_fields_are_the_documented_ones(monkeypatch):
    events, _ = simulate(monkeypatch, epochs=1)
    for kind in ("start", "epoch", "checkpoint"):
        assert of(events, kind)[0].keys() == {"event", "at", *FIELDS[kind]}
    assert of(events, "step")[0].keys() == {"event", "at", *FIELDS["step"]} - {
        "augment_share"
    }  # this training does not augment


def test_other_workers_report_nothing(monkeypatch):
    assert simulate(monkeypatch, epochs=1, rank=1)[0] == []
