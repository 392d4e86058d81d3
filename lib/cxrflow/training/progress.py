"""The progress of a training: the events that rank 0 reports, and the time that is left. Without Keras."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.training.epoch_plan import EpochPlan

REPORT_SECONDS = 5.0
"""Least time between two step events."""
PACE_EVENTS = 60
"""Number of last step events, about five minutes, from which the time of a step is estimated."""
VALIDATION_SHARE = 1 / 3
"""Time of a validation step relative to a training step, until the first validation is measured. The backward pass
takes about twice as long as the forward pass."""


class Progress:
    """Times a training and reports its events (``watch.events``) on rank 0.

    Call ``start`` first; for each epoch ``begin_epoch``; for each step ``mark`` after each of its phases, then
    ``step``; and ``end_epoch`` at the end of an epoch.
    """

    def __init__(self, config: TrainConfig, worker: Worker, train: EpochPlan, val: EpochPlan):
        """``train``, ``val``: plans of whole epochs of the two splits."""
        self._config, self._worker, self._train, self._val = config, worker, train, val
        self._recent: deque[tuple[float, int]] = deque(maxlen=PACE_EVENTS)
        """Seconds and steps of the last step events."""
        self._validation_seconds: float | None = None
        """What the last epoch took after its last step."""
        self._is_compiled = False
        self._marked = 0.0

    def start(self, epoch: int, samples: int, backend: str) -> None:
        """Report that training starts or resumes after ``epoch`` whole epochs and ``samples`` of the next."""
        self._report(
            "start",
            epoch=epoch + 1,
            epochs=self._config.epochs,
            images=self._images(epoch, samples),
            images_per_epoch=self._train.samples,
            steps_per_epoch=self._train.steps,
            workers=self._worker.size,
            batch_size=self._config.batch_size,
            backend=backend,
        )

    def begin_epoch(self, epoch: int, plan: EpochPlan) -> None:
        """Start timing an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            plan: What is left to feed of it.
        """
        self._epoch, self._plan = epoch, plan
        self._began = self._stepped = time.monotonic()
        self._begin_window(0)

    def mark(self, phase: str) -> None:
        """Count the time since the last mark as ``phase``: feed, augment, step or other."""
        now = time.monotonic()
        self.add(phase, now - self._marked)
        self._marked = now

    def add(self, phase: str, seconds: float) -> None:
        """Count ``seconds`` as ``phase``; the next step event has its share of the time as PHASE_share."""
        self._phases[phase] = self._phases.get(phase, 0.0) + seconds

    def step(self, step: int, loss: float, learning_rate: Callable[[], float]) -> None:
        """End a step; report a step event if one is due.

        Args:
            step: Number of the step in the epoch, from 0.
            loss: Mean loss (nats) of this worker's images.
            learning_rate: Returns the current learning rate; called only for an event.
        """
        self.mark("other")
        self._stepped = self._marked
        if not self._is_compiled:  # the first step compiles, and takes longer than any other
            self._is_compiled = True
            self._begin_window(step + 1)
            return
        self._loss += loss * self._plan.step_samples(step)
        seconds = self._stepped - self._window_began
        if seconds < REPORT_SECONDS and step + 1 < self._plan.steps:
            return
        self._recent.append((seconds, step + 1 - self._window_first))
        if self._worker.size > 1:
            self.add("all_reduce", self._worker.all_reduce_seconds() - self._reduced)
        fed = self._plan.fed_before(step + 1)
        images = fed - self._plan.fed_before(self._window_first)
        self._report(
            "step",
            epoch=self._epoch + 1,
            epochs=self._config.epochs,
            step=step + 1,
            steps=self._plan.steps,
            images=self._images(self._epoch, fed),
            loss=self._loss / images,
            learning_rate=learning_rate(),
            images_per_second=images / seconds,
            **{f"{phase}_share": spent / seconds for phase, spent in self._phases.items()},
            seconds_left=self._seconds_left(self._plan.steps - step - 1),
        )
        self._begin_window(step + 1)

    def checkpoint(self, epoch: int, samples: int) -> None:
        """Report a checkpoint after ``epoch`` whole epochs and ``samples`` of the next."""
        self._report("checkpoint", epoch=epoch, images=self._images(epoch, samples))

    def end_epoch(self, record: dict) -> None:
        """Report the end of an epoch. ``record``: its entry in history.json."""
        self._validation_seconds = time.monotonic() - self._stepped
        figures = {name: value for name, value in record.items() if name not in ("epoch", "fed")}
        self._report(
            "epoch",
            epoch=self._epoch + 1,
            epochs=self._config.epochs,
            images=self._images(self._epoch + 1, 0),
            **figures,
            seconds_left=self._seconds_left(None),
        )

    def _begin_window(self, step: int) -> None:
        """Start collecting for the next step event, from this step on."""
        self._window_began = self._marked = time.monotonic()
        self._window_first, self._loss, self._phases = step, 0.0, dict[str, float]()
        self._reduced = self._worker.all_reduce_seconds()

    def _seconds_left(self, steps: int | None) -> float:
        """Seconds until the end of the last epoch. ``steps``: those left of this one, or None after its validation."""
        timed = self._recent or [(self._stepped - self._began, self._plan.steps)]
        step_seconds = sum(seconds for seconds, _ in timed) / sum(count for _, count in timed)
        validation = self._validation_seconds
        if validation is None:
            validation = VALIDATION_SHARE * step_seconds * self._val.steps
        this_epoch = 0.0 if steps is None else steps * step_seconds + validation
        later_epochs = (self._config.epochs - self._epoch - 1) * (self._train.steps * step_seconds + validation)
        # The saved model is validated once more, on all of its TTA copies.
        return this_epoch + later_epochs + self._config.tta * validation

    def _images(self, epoch: int, samples: int) -> int:
        return epoch * self._train.samples + samples

    def _report(self, event: str, **fields) -> None:
        if self._worker.rank == 0:
            self._worker.report_event({"event": event, **fields})
