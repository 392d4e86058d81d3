"""Report what this worker is doing, so that the driver notices a worker that hangs, and where."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from cxrflow.distributed.worker import Worker
from cxrflow.training.feed import Batch


class ProgressReporter:
    """Reports the phase, epoch and step of one worker through ``Worker.report_progress``."""

    def __init__(self, worker: Worker):
        self._worker = worker
        self._epoch, self._step = 0, 0
        self._compiled: set[str] = set()

    def batches(self, batches: Iterable[Batch], phase: str, epoch: int) -> Iterator[Batch]:
        """Yield the batches; report ``feed`` before each one and ``phase`` while the caller works on it.

        The first batch of a phase is reported as ``first PHASE``: compiling may take longer than the limit for a step.

        Args:
            batches: What the feed yields.
            phase: ``train`` or ``validate``.
            epoch: Number of the epoch, from 0.
        """
        iterator = iter(batches)
        for step in itertools.count(1):
            self._epoch, self._step = epoch + 1, step
            self._worker.report_progress("feed", epoch=epoch + 1, step=step)
            batch = next(iterator, None)
            if batch is None:
                return
            name = phase if phase in self._compiled else f"first {phase}"
            self._worker.report_progress(name, epoch=epoch + 1, step=step)
            yield batch
            self._compiled.add(phase)

    def wait_for(self, shard: str) -> None:
        """Report that the feed waits for a shard."""
        self._worker.report_progress("feed", epoch=self._epoch, step=self._step, shard=shard)

    def checkpoint(self, epoch: int) -> None:
        """Report that this worker writes a checkpoint after ``epoch`` whole epochs."""
        self._worker.report_progress("checkpoint", epoch=epoch)

    def new_graph(self, phase: str) -> None:
        """Note that the phase runs another graph next, whose first batch compiles it."""
        self._compiled.discard(phase)
