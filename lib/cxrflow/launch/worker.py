"""The one value that knows which worker this is and how workers talk to each other."""

from __future__ import annotations

import sys

import numpy as np

from cxrflow.launch import signals
from cxrflow.launch.agent import Agent


class Worker:
    """A worker on its own; each launcher has a subclass that talks to the others.

    Every method that exchanges is collective: all workers call it in the same order, with arrays of the same
    dtypes, and of the same shapes but for ``gather``.
    """

    rank: int = 0
    """Which worker this is: 0 to size - 1. Only rank 0 writes files."""
    size: int = 1
    """Number of workers."""
    local_rank: int = 0
    """Which of the workers on this machine."""

    def say(self, line: str) -> None:
        """Show a line to the person who started the job; rank 0 alone has something to say."""
        print(line, file=sys.stderr, flush=True)

    def at(self, phase: str, **where) -> None:
        """Say what this worker begins to do, and where (``epoch``, ``step``, ``shard``), for whoever watches over it."""

    def stop_wanted(self) -> bool:
        """Whether somebody asked for a last checkpoint and the end; what rank 0 hears is decisive."""
        return signals.wanted()

    def average_gradients(self, gradients: list) -> list:
        """The mean over all workers of each tensor of Keras' backend, in one exchange; called in the train step."""
        return gradients

    def average(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The mean over all workers of each array."""
        return arrays

    def broadcast(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Rank 0's arrays."""
        return arrays

    def gather(self, array: np.ndarray) -> np.ndarray:
        """All workers' arrays, laid end to end along the first axis in order of rank."""
        return array


class WatchedWorker(Worker):
    """A worker with an agent, through which it talks to the driver."""

    agent: Agent

    def say(self, line: str) -> None:
        self.agent.tell({"line": line})

    def at(self, phase: str, **where) -> None:
        self.agent.at(phase, **where)

    def stop_wanted(self) -> bool:
        return self.agent.stop_wanted()
