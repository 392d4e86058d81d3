"""What rank 0 tells of a training as it goes, and how long the rest will take. Without Keras."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.training.epoch_plan import EpochPlan

TELL_SECONDS = 5.0
PACE_EVENTS = 60
"""Step events, of about five minutes, whose steps tell how long a step takes."""
SCORE_SHARE = 1 / 3
"""What a step of validation takes of a step of training, whose way back is about twice its way there; used until the
first validation has shown it."""


class Progress:
    """Times a training, and tells its events (``watch.events``) on rank 0.

    ``start`` comes first; for each epoch ``begin_epoch``, for each step ``mark`` after each of its parts and ``step``,
    then ``end_epoch``.
    """

    def __init__(self, config: TrainConfig, worker: Worker, train: EpochPlan, val: EpochPlan):
        """``train``, ``val``: plans of whole epochs of the two splits."""
        self._config, self._worker, self._train, self._val = config, worker, train, val
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE_EVENTS)
        """Seconds and steps of the last step events."""
        self._beside: float | None = None
        """Seconds that the last epoch took after its last step."""
        self._compiled = False

    def start(self, epoch: int, samples: int, backend: str) -> None:
        """Training begins, or goes on, after ``epoch`` whole epochs and ``samples`` of the next."""
        self._tell(
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
        """``epoch``: its number, from 0. ``plan``: what there is to feed of it."""
        self._epoch, self._plan = epoch, plan
        self._began = self._stepped = time.monotonic()
        self._begin_window(0)

    def mark(self, part: str) -> None:
        """The time since the last mark went to ``part``: feed, augment, step or other."""
        now = time.monotonic()
        self.add(part, now - self._marked)
        self._marked = now

    def add(self, part: str, seconds: float) -> None:
        """``seconds`` went to ``part``, whose share the next step event has as PART_share."""
        self._parts[part] = self._parts.get(part, 0.0) + seconds

    def step(self, step: int, loss: float, learning_rate: Callable[[], float]) -> None:
        """Step ``step``, from 0, is done; ``loss`` is the mean over this worker's images. What came after the last ``mark``
        goes to other."""
        self.mark("other")
        self._stepped = self._marked
        if not self._compiled:  # which made this step longer than any other will be
            self._compiled = True
            self._begin_window(step + 1)
            return
        self._loss += loss * self._plan.step_samples(step)
        seconds = self._stepped - self._window_began
        if seconds < TELL_SECONDS and step + 1 < self._plan.steps:
            return
        self._pace.append((seconds, step + 1 - self._window_first))
        if self._worker.size > 1:
            self.add("exchange", self._worker.all_reduce_seconds() - self._exchanged)
        fed = self._plan.fed_before(step + 1)
        images = fed - self._plan.fed_before(self._window_first)
        self._tell(
            "step",
            epoch=self._epoch + 1,
            epochs=self._config.epochs,
            step=step + 1,
            steps=self._plan.steps,
            images=self._images(self._epoch, fed),
            loss=self._loss / images,
            learning_rate=learning_rate(),
            images_per_second=images / seconds,
            **{f"{part}_share": spent / seconds for part, spent in self._parts.items()},
            seconds_left=self._seconds_left(self._plan.steps - step - 1),
        )
        self._begin_window(step + 1)

    def checkpoint(self, epoch: int, samples: int) -> None:
        """A checkpoint after ``epoch`` whole epochs and ``samples`` of the next is written."""
        self._tell("checkpoint", epoch=epoch, images=self._images(epoch, samples))

    def end_epoch(self, record: dict) -> None:
        """``record``: what ``history.json`` has of the epoch."""
        self._beside = time.monotonic() - self._stepped
        figures = {name: value for name, value in record.items() if name not in ("epoch", "fed")}
        self._tell(
            "epoch",
            epoch=self._epoch + 1,
            epochs=self._config.epochs,
            images=self._images(self._epoch + 1, 0),
            **figures,
            seconds_left=self._seconds_left(None),
        )

    def _begin_window(self, step: int) -> None:
        """What follows, from this step on, is for the next step event."""
        self._window_began = self._marked = time.monotonic()
        self._window_first, self._loss, self._parts = step, 0.0, dict[str, float]()
        self._exchanged = self._worker.all_reduce_seconds()

    def _seconds_left(self, steps: int | None) -> float:
        """Until the end of the last epoch: ``steps`` more of this one, and what follows them, or None if it is over."""
        timed = self._pace or [(self._stepped - self._began, self._plan.steps)]
        pace = sum(seconds for seconds, _ in timed) / sum(count for _, count in timed)
        beside = SCORE_SHARE * pace * self._val.steps if self._beside is None else self._beside
        this = 0.0 if steps is None else steps * pace + beside
        last = self._config.tta * beside  # the model that is kept is validated once more, on all of its views
        return this + (self._config.epochs - self._epoch - 1) * (self._train.steps * pace + beside) + last

    def _images(self, epoch: int, samples: int) -> int:
        return epoch * self._train.samples + samples

    def _tell(self, event: str, **fields) -> None:
        if self._worker.rank == 0:
            self._worker.report_event({"event": event, **fields})
