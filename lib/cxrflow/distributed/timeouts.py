"""How long driver, agents and launchers wait for each other; one value that checks its own order."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """All in seconds. Raises ValueError for values that contradict each other.

    The most important rule: an agent that does not hear the driver kills its worker before the driver starts another
    worker in its place. Otherwise two would write to one run directory.
    """

    agent_heartbeat_seconds: float = 1.0
    """Between two heartbeats from an agent to the monitor."""
    driver_heartbeat_seconds: float = 2.0
    """Between two heartbeats from the monitor to the agents."""
    driver_silence_seconds: float = 12.0
    """An agent kills its worker when it has not heard the driver for so long."""
    agent_silence_seconds: float = 18.0
    """The monitor takes a worker for lost when it has not heard its agent for so long."""
    start_seconds: float = 120.0
    """For all workers to register, and for the phases that are slow once: loading the framework, compiling a step."""
    last_lines_seconds: float = 1.0
    """An agent reads a dead worker's standard error for so long, because a child of the worker may hold it open."""
    reports_seconds: float = 5.0
    """For the consequences of a worker's end to show in the other workers."""
    launcher_end_seconds: float = 20.0
    """For a launcher to return after all its workers have ended; then it is abandoned. When a machine cannot be
    reached, the launcher may wait for it for ever, so it gets ``reports_seconds`` only."""
    stop_seconds: float = 60.0
    """For the last checkpoint after Ctrl-C or SIGTERM. ``--hang-seconds`` counts if it is longer, because workers do
    not look for a stop request during validation."""
    earlier_seconds: float = 0.5
    """A failure is the cause of another worker's end only if it came earlier by this much: reports take time to
    arrive."""
    slots_seconds: float = 30.0
    """For the task slots of a lost worker to come back, before training restarts with fewer workers."""

    def __post_init__(self):
        for known in fields(self):
            value = getattr(self, known.name)
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{known.name}: expected a number of seconds above 0, got {value!r}")
        # Both heartbeats are on the way, or due, when a connection is cut.
        slack = self.agent_heartbeat_seconds + self.driver_heartbeat_seconds
        self._expect_below("driver_silence_seconds", "agent_silence_seconds", slack)
        self._expect_below("driver_heartbeat_seconds", "driver_silence_seconds")
        self._expect_below("agent_heartbeat_seconds", "driver_silence_seconds")
        self._expect_below("agent_silence_seconds", "start_seconds")
        self._expect_below("last_lines_seconds", "reports_seconds")
        self._expect_below("earlier_seconds", "reports_seconds")
        self._expect_below("reports_seconds", "launcher_end_seconds")

    def _expect_below(self, name: str, limit: str, slack: float = 0.0) -> None:
        value, most = getattr(self, name), getattr(self, limit) - slack
        if not value < most:
            after = f" - {slack:g} (both heartbeats)" if slack else ""
            raise ValueError(f"{name}: expected less than {limit}{after} = {most:g}, got {value:g}")
