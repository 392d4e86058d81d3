"""A worker's rank and its collective operations with the other workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cxrflow.base.errors import JobError
from cxrflow.distributed import signals
from cxrflow.distributed.agent import Agent
from cxrflow.distributed.agreement import describe_arrays, digest, explain_difference
from cxrflow.watch.terminal import show

Tensor = Any
"""A tensor of Keras' backend: TensorFlow's or torch's."""


class Worker:
    """The only worker of a training. Each launcher has a subclass for several workers.

    ``all_*`` methods and ``broadcast`` are collective: all workers must call them in the same order, with arrays of
    the same dtypes and, except for ``all_gather``, the same shapes. Operations on NumPy arrays check this first and
    raise JobError on all workers, with the name of the array that differs. ``names`` are those of the arrays.
    """

    rank: int = 0
    """From 0 to size - 1. Only rank 0 writes files."""
    size: int = 1
    """Number of workers."""
    report_event: Callable[[dict], None] = staticmethod(show)
    """Send a training event (``watch.events``) to the driver's recorder. Only rank 0 reports events."""

    def report_progress(
        self, phase: str, *, epoch: int | None = None, step: int | None = None, shard: str | None = None
    ) -> None:
        """Report what this worker begins to do (``messages.Progress``), for the driver's monitor."""

    def stop_requested(self) -> bool:
        """Whether the user asked to save a checkpoint and stop. Workers follow rank 0's answer."""
        return signals.stop_requested()

    def all_reduce_mean_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """The mean over all workers of each float32 tensor, in one operation; for the train step."""
        return gradients

    def all_reduce_seconds(self) -> float:
        """The time that ``all_reduce_mean_gradients`` has taken so far: waiting for the slowest worker, and
        transfer."""
        return 0.0

    def all_reduce_mean_tensor(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all workers. It is differentiable; for the train step."""
        return tensor

    def all_reduce_mean(self, arrays: list[np.ndarray], names: Sequence[str] | None = None) -> list[np.ndarray]:
        """The mean over all workers of each array."""
        return arrays

    def broadcast(self, arrays: list[np.ndarray], names: Sequence[str] | None = None) -> list[np.ndarray]:
        """Rank 0's arrays."""
        return arrays

    def all_gather(self, array: np.ndarray, name: str | None = None) -> np.ndarray:
        """All workers' arrays, concatenated along the first axis in order of rank."""
        return array


class MonitoredWorker(Worker):
    """A worker with an agent, through which it reports to the driver."""

    agent: Agent

    def report_event(self, event: dict) -> None:
        """See ``Worker``."""
        self.agent.report_event(event)

    def report_progress(
        self, phase: str, *, epoch: int | None = None, step: int | None = None, shard: str | None = None
    ) -> None:
        """See ``Worker``."""
        self.agent.report_progress(phase, epoch=epoch, step=step, shard=shard)

    def stop_requested(self) -> bool:
        """See ``Worker``."""
        return self.agent.stop_requested()

    def require_agreement(
        self, operation: str, arrays: Sequence[Any], names: Sequence[str] | None = None, any_length: bool = False
    ) -> None:
        """Raise JobError on all workers unless the arrays have the same dtypes and shapes on all. Collective.

        See ``agreement.describe_arrays`` for the arguments.
        """
        if self.size == 1:
            return
        description = describe_arrays(operation, arrays, names, any_length)
        digests = self._gather_equal(digest(description))
        if (digests == digests[0]).all():
            return
        content = np.frombuffer("\n".join(description).encode(), np.uint8)
        lengths = self._gather_equal(np.array([len(content)]))[:, 0]
        contents = self._gather_equal(np.pad(content, (0, int(lengths.max()) - len(content))))
        texts = [row[:length].tobytes().decode() for row, length in zip(contents, lengths, strict=True)]
        raise JobError(str(explain_difference([text.split("\n") for text in texts])))

    def _gather_equal(self, array: np.ndarray) -> np.ndarray:
        """All workers' arrays (n,), of the same dtype and length, as (workers, n). Collective."""
        raise NotImplementedError
