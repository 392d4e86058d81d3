"""One pass over the train split. Imports Keras."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.training.augment import augment, find_policy
from cxrflow.training.checkpoint import Checkpoint, CheckpointClock, Due
from cxrflow.training.feed import Feed
from cxrflow.training.finite_check import require_finite
from cxrflow.training.progress import Progress
from cxrflow.training.progress_reporter import ProgressReporter
from cxrflow.training.sample_audit import SampleAudit
from cxrflow.training.train_state import TrainState


@dataclass(frozen=True)
class TrainedEpoch:
    """The result of one pass over the train split."""

    loss: float
    """Mean loss (nats) of the split's samples, over all workers."""
    fed: dict
    """``SampleAudit.check``: samples fed and expected, and their checksum."""


@dataclass(frozen=True)
class StopPoint:
    """Where training stopped on request; a checkpoint holds its state."""

    epochs: int
    """Finished epochs."""
    samples: int = 0
    """Samples fed of the next one."""


class EpochLoop:
    """Trains the network on batches of the train split, with checkpoints in between."""

    def __init__(
        self,
        config: TrainConfig,
        worker: Worker,
        feed: Feed,
        state: TrainState,
        clock: CheckpointClock,
        progress: Progress,
        reporter: ProgressReporter,
        start: Checkpoint,
        save_checkpoint: Callable[[int, int, float, SampleAudit], None],
    ):
        """``save_checkpoint``: takes finished epochs, samples fed of the next, the sum of their losses over all
        workers, and this worker's audit of them. Collective."""
        self._config, self._worker, self._feed, self._state = config, worker, feed, state
        self._clock, self._progress, self._reporter, self._start = clock, progress, reporter, start
        self._save_checkpoint = save_checkpoint
        self._policy = find_policy(config.augment)

    def first_sample(self, epoch: int) -> int:
        """How many samples of the epoch an earlier job has fed: not 0 only after a resume inside it."""
        return self._start.state["samples"] if epoch == self._start.state["epoch"] else 0

    def run(self, epoch: int) -> TrainedEpoch | StopPoint:
        """Train one epoch, or what is left of it after a resume. Collective.

        Args:
            epoch: Number of the epoch, from 0.

        Raises:
            JobError: If the loss is not finite, or if not every sample was fed exactly once.
        """
        first = self.first_sample(epoch)
        plan = self._feed.plan(epoch, first)
        # Rank 0 continues the audit and the sum of losses from before the resume. The other workers start from 0.
        fed_before = self._start.arrays.get("fed") if first > 0 and self._worker.rank == 0 else None
        audit = SampleAudit(self._feed.shards, fed_before)
        loss_before, loss_sum = self._start.state["loss"] if first > 0 else 0.0, 0.0
        self._progress.begin_epoch(epoch, plan)
        with closing(self._feed.epoch(epoch, first)) as batches:
            for step, batch in enumerate(self._reporter.batches(batches, "train", epoch)):
                self._progress.mark("feed")
                pixels = augment(self._policy, batch.pixels, batch.sample_ids, seed=self._config.seed, epoch=epoch)
                self._progress.mark("augment")
                loss = self._train_on(pixels, batch.targets, batch.weights)
                self._progress.mark("step")
                self._state.average.update()
                audit.add(batch.shards, batch.sample_ids)
                require_finite(loss, f"the loss of step {step + 1} of the next", epoch, self._config)
                loss_sum += loss * plan.step_samples(step)
                self._progress.step(step, loss, lambda: self._state.learning_rate)
                due = self._clock.due(step)
                # The last step may be short, and the feed fills it up with rows of the step before. So a resumed run
                # must not begin with it: a checkpoint needs two more steps.
                if due != Due.NOTHING and step + (2 if due == Due.CHECKPOINT else 1) < plan.steps:
                    fed = plan.fed_before(step + 1)
                    self._save_checkpoint(epoch, fed, loss_before + self._mean(loss_sum), audit)
                    if due == Due.STOP:
                        return StopPoint(epoch, fed)
                self._progress.mark("other")
        loss = (loss_before + self._mean(loss_sum)) / plan.samples
        return TrainedEpoch(loss, audit.combined(self._worker).check())

    def _train_on(self, pixels: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Train one step; returns the mean loss of this worker's batch."""
        # Keras < 3.15 returns a running mean: https://github.com/keras-team/keras/issues/22596.
        self._state.model.reset_metrics()
        return float(self._state.model.train_on_batch(pixels, targets, weights, return_dict=True)["loss"])

    def _mean(self, value: float) -> float:
        """The workers' mean. Collective."""
        return float(self._worker.all_reduce_mean([np.array([value])])[0][0])
