"""The one value that knows which worker this is and how workers talk to each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cxrflow.distributed import signals
from cxrflow.distributed.agent import Agent
from cxrflow.watch.terminal import show


class Worker:
    """A worker on its own; each launcher has a subclass that talks to the others.

    Every method that exchanges is collective: all workers call it in the same order, with arrays of the same
    dtypes, and of the same shapes but for ``all_gather``.
    """

    rank: int = 0
    """Which worker this is: 0 to size - 1. Only rank 0 writes files."""
    size: int = 1
    """Number of workers."""
    report_event: Callable[[dict], None] = staticmethod(show)
    """Hand an event (``watch.events``) to whoever watches the training; rank 0 alone has something to tell."""

    def report_progress(self, phase: str, **where) -> None:
        """Say what this worker begins to do, and where (``epoch``, ``step``, ``shard``), for whoever watches over it."""

    def stop_requested(self) -> bool:
        """Whether somebody asked for a last checkpoint and the end; what rank 0 hears is decisive."""
        return signals.wanted()

    def all_reduce_mean_gradients(self, gradients: list) -> list:
        """The mean over all workers of each float32 tensor of Keras' backend, in one exchange; called in the train step."""
        return gradients

    def all_reduce_seconds(self) -> float:
        """What ``all_reduce_mean_gradients`` took until now: waiting for the slowest worker, and the transfer."""
        return 0.0

    def all_reduce_mean_tensor(self, tensor):
        """The mean over all workers of a tensor of Keras' backend, through which gradients flow; for a train step."""
        return tensor

    def all_reduce_mean(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The mean over all workers of each array."""
        return arrays

    def broadcast(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Rank 0's arrays."""
        return arrays

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        """All workers' arrays, laid end to end along the first axis in order of rank."""
        return array


class WatchedWorker(Worker):
    """A worker with an agent, through which it talks to the driver."""

    agent: Agent

    def report_event(self, event: dict) -> None:
        self.agent.report_event(event)

    def report_progress(self, phase: str, **where) -> None:
        self.agent.report_progress(phase, **where)

    def stop_requested(self) -> bool:
        return self.agent.stop_requested()
