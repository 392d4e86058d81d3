"""What a worker's task finds out about where it runs. Never raises: what went wrong is one of the facts."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import AuthenticationError

from cxrflow.base import host_facts
from cxrflow.base.config import TrainConfig
from cxrflow.distributed.connection import Address, check_reachable
from cxrflow.distributed.netif import interface_towards
from cxrflow.preflight import connectivity, storage_probe
from cxrflow.preflight.smoke_process import Trial


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What all tasks are asked; plain data, which travels as JSON."""

    config: dict
    """Fields of the TrainConfig, with absolute places."""
    backend: str
    """tensorflow or torch."""
    generation: int
    """Of the table, as the driver sees it."""
    word: str
    """Random, of this preflight: names marks in the run directory and answers at doors."""
    driver: tuple[str, int, str] | None
    """Host, port and key (hexadecimal) of the driver's progress listener; None where the driver is this process."""
    threads: int = 1
    """Cores of a worker."""
    trial: bool = True
    """Whether to try a step of the model."""


@dataclass(frozen=True)
class Place:
    """Where a task runs among the others."""

    rank: int
    hosts: list[str]
    """The address of each rank's executor, as Spark's driver sees it."""
    gather: Callable[[str], list[str]]
    """Every rank's text, in order of rank; collective."""
    gpus: tuple[str, ...] = ()
    """Those that Spark gave the task."""

    @property
    def leads(self) -> bool:
        """Whether this task does what one task a host is enough for: it is the first there."""
        return self.hosts.index(self.hosts[self.rank]) == self.rank

    def leaders(self) -> list[int]:
        return sorted({host: rank for rank, host in reversed(list(enumerate(self.hosts)))}.values())


def probe(question: ProbeRequest, place: Place) -> dict:
    """The facts of one task, each check with its ``seconds`` and, where it failed, ``error``. It gathers twice."""
    config = TrainConfig(**question.config)
    address = place.hosts[place.rank]
    # Named as the person who set the cluster up names it.
    facts = {
        "rank": place.rank,
        "machine": address,
        "host": os.environ.get("SPARK_LOCAL_IP", address),
        "gpus": len(place.gpus),
    }
    with ExitStack() as stack:
        if place.leads:
            facts["memory"] = _attempt(host_facts.memory)  # before the trial takes some of it
        # It takes longest, and all else goes on beside it.
        trial = (
            _attempt(
                lambda: {
                    "trial": stack.enter_context(
                        Trial(question.config, question.backend, question.threads, _visible_gpus(config, place))
                    )
                }
            )
            if place.leads and question.trial
            else None
        )
        facts["versions"] = _attempt(
            lambda: {"java": host_facts.executor_java(), **host_facts.versions(config.launcher, question.backend)}
        )
        _meet(question, place, config, facts)
        if place.leads:
            part = place.leaders().index(place.rank)
            facts["table"] = _attempt(lambda: storage_probe.read_table(config.table, question.generation, part))
        if trial is not None:
            facts["step"] = _attempt(trial["trial"].result) if "trial" in trial else trial
    return facts


def _visible_gpus(config: TrainConfig, place: Place) -> list[str] | None:
    """What a worker of this launcher would see in this place; None for all that the machine has. TorchDistributor's see those
    that Spark gave their task alone."""
    return list(place.gpus) if place.gpus or config.launcher == "torch" else None


def _meet(question: ProbeRequest, place: Place, config: TrainConfig, facts: dict) -> None:
    """Meet the other tasks: open a door and leave a mark, then look for theirs, then clear both away."""
    mark = storage_probe.ProbeFile(config.run, f"{question.word}-{place.rank}")
    facts["run"] = _attempt(mark.write) if place.leads else None
    door = _attempt(lambda: {"door": connectivity.EchoServer(facts["machine"], question.word)})
    address = door["door"].address if "door" in door else None
    addresses = _addresses(place.gather(json.dumps(address)))
    facts["network"] = (
        door
        if address is None
        else _attempt(
            lambda: {
                "unreached": list(
                    connectivity.knock_at_all(
                        {rank: at for rank, at in addresses.items() if rank != place.rank}, question.word
                    ).items()
                ),
                "driver": _reach_driver(question.driver),
                "loopback_name": connectivity.own_name_is_loopback(),
                "card": interface_towards(facts["machine"]),
            }
        )
    )
    writers = [*(["driver"] if question.driver else []), *place.leaders()]
    seen = (
        _attempt(
            lambda: {
                "unseen": [
                    writer for writer in writers if not storage_probe.sees_mark(config.run, f"{question.word}-{writer}")
                ]
            }
        )
        if place.leads
        else {}
    )
    place.gather("")  # nobody clears away before all have looked
    if address is not None:
        door["door"].close()
    if place.leads:
        facts["run"] = _merge(facts["run"], seen, _attempt(mark.remove))


def _addresses(gathered: list[str]) -> dict[int, tuple[str, int]]:
    """Those of the tasks that have a door."""
    found = {rank: json.loads(text or "null") for rank, text in enumerate(gathered)}
    return {rank: tuple(address) for rank, address in found.items() if address is not None}


def _reach_driver(driver: tuple[str, int, str] | None) -> str | None:
    """None where the driver's listener is reached, otherwise why not."""
    if driver is None:
        return None
    host, port, key = driver
    try:
        check_reachable(Address(host, port, bytes.fromhex(key)))
    except (AuthenticationError, OSError, EOFError) as error:
        return f"{host}:{port}: {error}"


def _attempt(check: Callable[[], dict | None]) -> dict:
    """What the check returns, and ``seconds``; or ``error`` where it raised."""
    started = time.monotonic()
    try:
        found = check() or {}
    except Exception as error:  # whatever it is, the others must not wait for this task
        found = {"error": f"{type(error).__name__}: {error}"}
    return {**found, "seconds": time.monotonic() - started}


def _merge(*attempts: dict) -> dict:
    """One check of several; the first error is the one that counts."""
    merged: dict = {}
    for attempt in attempts:
        merged = {**attempt, **merged, "seconds": merged.get("seconds", 0) + attempt["seconds"]}
    return merged


def to_json(question: ProbeRequest) -> str:
    return json.dumps(dataclasses.asdict(question))


def from_json(text: str) -> ProbeRequest:
    return ProbeRequest(**json.loads(text))
