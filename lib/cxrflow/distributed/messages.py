"""The messages between a worker, its agent and the driver's monitor, and their form on the wire: one line of JSON each.

=================  ==============================================
from, to           messages
=================  ==============================================
worker to agent    ``Attach`` first, then ``Progress``, ``Event``, ``Finished``
agent to worker    ``Ready`` or ``Refused`` first, then ``Order`` (stop)
agent to monitor   ``Registration`` first, then ``Heartbeat``, ``Event``, ``Finished``, ``Exited``
monitor to agent   ``Order``
=================  ==============================================

Driver and executors may run different releases of cxrflow, for example with an old ``--py-files`` archive. So
``decode`` refuses a message that this release does not know instead of guessing.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Action = Literal["heartbeat", "stop", "dump_stacks", "kill"]
ACTIONS: tuple[Action, ...] = get_args(Action)


class MessageError(ValueError):
    """A line that is no message of this release."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a worker does now, and where in the training it is."""

    phase: str = "start"
    """start, feed (wait for a batch), train, validate, checkpoint; "first train" and "first validate" compile the
    step."""
    epoch: int | None = None
    """From 1."""
    step: int | None = None
    """From 1, within the epoch."""
    shard: str | None = None
    """The shard that the worker waits for."""

    def __str__(self) -> str:
        text = f"in {self.phase}"
        if self.epoch is not None:
            text += f" of epoch {self.epoch}"
        if self.step is not None:
            text += f" at step {self.step}"
        if self.shard is not None:
            text += f" with {self.shard}"
        return text


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a worker fails."""

    reason: str
    expected: bool = False
    """``reason`` is a message for the user (UserError, JobError), not the text of an unexpected exception."""
    bad_input: bool = False
    """A UserError."""
    collective: bool = False
    """A collective operation failed, so another worker is to blame."""


@dataclass(frozen=True, kw_only=True)
class Attach:
    """A worker introduces itself to its agent, and says where the driver's monitor listens."""

    rank: int
    pid: int
    host: str
    executor: str | None
    """Id of the Spark executor; None in local mode."""
    driver_host: str
    driver_port: int
    driver_key: str
    """The connection's key in hexadecimal digits."""
    timeouts: dict[str, float]
    """The fields of ``timeouts.Timeouts``."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The agent has reached the monitor."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The agent cannot reach the monitor, and ends."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Registration:
    """An agent's first message to the monitor: which worker it stands for."""

    rank: int
    pid: int
    host: str
    executor: str | None


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """An agent's sign of life."""

    progress: Progress
    idle_seconds: float
    """Time since the worker reported ``progress``."""
    process_state: str
    """The kernel's letter for the state of the worker's process (``proc(5)``): T means stopped; empty if unknown."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A training event of rank 0 (``watch.events``) for the driver's recorder."""

    content: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A worker has left its training function."""

    failure: Failure | None = None
    """None after success."""
    last_lines: list[str] = field(default_factory=list)
    """The last lines that it wrote to standard error; the agent adds them."""


@dataclass(frozen=True, kw_only=True)
class Exited:
    """A worker's process has ended."""

    progress: Progress
    last_lines: list[str]
    seconds_ago: float


@dataclass(frozen=True, kw_only=True)
class Order:
    """What an agent shall do: nothing (heartbeat), ask its worker to save a checkpoint and stop, have it write the
    stacks of its threads to standard error, or kill it."""

    action: Action

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise MessageError(f"action: expected one of {', '.join(ACTIONS)}; got {self.action!r}")


Message = Progress | Attach | Ready | Refused | Registration | Heartbeat | Event | Finished | Exited | Order
TYPES: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}
NESTED: dict[str, type[Progress | Failure]] = {"progress": Progress, "failure": Failure}
"""Fields that hold a dataclass themselves."""


def encode(message: Message) -> bytes:
    """The message as a line of JSON, with the line's end."""
    return json.dumps({"type": type(message).__name__, **dataclasses.asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message in a line of JSON. Raises MessageError for anything else, and for unknown or missing fields."""
    try:
        content = json.loads(line)
    except ValueError:
        raise MessageError(f"expected a line of JSON, got {line[:100]!r}") from None
    kind = content.pop("type", None) if isinstance(content, dict) else None
    if kind not in TYPES:
        raise MessageError(f"expected a message of type {', '.join(TYPES)}; got {line[:100]!r}")
    for name, nested in NESTED.items():
        if isinstance(content.get(name), dict):
            content[name] = _build(nested, content[name])
    return _build(TYPES[kind], content)


def _build(kind: type, content: dict[str, Any]) -> Any:
    fields = dataclasses.fields(kind)
    if unknown := content.keys() - {known.name for known in fields}:
        raise MessageError(
            f"{kind.__name__}: expected the fields {', '.join(known.name for known in fields)}; got unknown "
            f"{', '.join(sorted(unknown))}; use the same release of cxrflow on the driver and on all executors"
        )
    try:
        return kind(**content)
    except TypeError as error:  # a missing field
        raise MessageError(f"{kind.__name__}: {error}") from None
