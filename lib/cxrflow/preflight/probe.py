"""A task's side of the preflight: collect facts about its machine and its connections.

``probe`` never raises: errors are facts too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from cxrflow.base import host_facts
from cxrflow.base.config import TrainConfig
from cxrflow.base.keras_settings import overridden_settings
from cxrflow.distributed.connection import LOST, Address, check_reachable
from cxrflow.distributed.netif import interface_towards
from cxrflow.preflight import storage_probe
from cxrflow.preflight.connectivity import EchoServer, hostname_is_loopback, ping_all
from cxrflow.preflight.smoke_process import SmokeProcess


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What the driver sends to all tasks, as JSON."""

    config: dict
    """The fields of the TrainConfig, with absolute URLs."""
    backend: str
    """tensorflow or torch."""
    generation: int
    """The table's generation, as the driver sees it."""
    token: str
    """A random text of this preflight, in the names of probe files and the answers of echo servers."""
    driver: tuple[str, int, str] | None
    """Host, port and key (hexadecimal) of the driver's listener; None if the driver is this process."""
    threads: int = 1
    """Cores of a worker."""
    smoke_step: bool = True
    """Whether to try a training step."""


@dataclass(frozen=True)
class TaskContext:
    """A task's rank among the tasks of the stage, and how it talks to them."""

    rank: int
    hosts: list[str]
    """The address of each rank's executor, as Spark's driver sees it."""
    all_gather: Callable[[str], list[str]]
    """Collective: takes each rank's text and returns all of them by rank."""
    gpus: tuple[str, ...] = ()
    """GPUs that Spark assigned to the task."""

    @property
    def is_host_leader(self) -> bool:
        """Whether this is the first task on its host. It does what is enough once per host."""
        return self.hosts.index(self.hosts[self.rank]) == self.rank

    @property
    def host_leaders(self) -> list[int]:
        """The ranks of all host leaders."""
        return sorted({self.hosts.index(host) for host in self.hosts})


def probe(request: ProbeRequest, context: TaskContext) -> dict:
    """The facts of one task. Collective: all tasks must call it, because it calls ``all_gather`` twice.

    Each check is a dict with its results and ``seconds``, and ``error`` if it failed.
    """
    config = TrainConfig(**request.config)
    address = context.hosts[context.rank]
    facts = {
        "rank": context.rank,
        "machine": address,
        "host": os.environ.get("SPARK_LOCAL_IP", address),  # the name that the cluster's owner gave it
        "gpus": len(context.gpus),
    }
    with ExitStack() as stack:
        started = {}
        if context.is_host_leader:
            facts["memory"] = _attempt(host_facts.memory)  # before the smoke step uses some of it
            if request.smoke_step:  # it takes longest, so it runs beside all other checks
                started = _attempt(lambda: {"process": stack.enter_context(_start_step(request, config, context))})
        facts["versions"] = _attempt(
            lambda: {"java": host_facts.executor_java(), **host_facts.versions(config.launcher, request.backend)}
        )
        if context.is_host_leader:
            facts["keras"] = _attempt(lambda: {"overridden": overridden_settings()})
        _check_together(request, context, config, facts)
        if context.is_host_leader:
            index = context.host_leaders.index(context.rank)
            facts["table"] = _attempt(lambda: storage_probe.read_table(config.table, request.generation, index))
        if started:
            facts["step"] = _attempt(started["process"].result) if "process" in started else started
    return facts


def _start_step(request: ProbeRequest, config: TrainConfig, context: TaskContext) -> SmokeProcess:
    """Start the smoke step with the GPUs that a worker of this launcher would see.

    Workers of TorchDistributor see only the GPUs that Spark assigned to their task; others see all unless Spark
    assigned some.
    """
    gpus = list(context.gpus) if context.gpus or config.launcher == "torch" else None
    return SmokeProcess(request.config, request.backend, request.threads, gpus)


def _check_together(request: ProbeRequest, context: TaskContext, config: TrainConfig, facts: dict) -> None:
    """Check the network and the run directory together with the other tasks; adds ``network`` and ``run``.

    Every task starts an echo server, and every host leader writes a probe file. After the first all_gather all look for
    the others' servers and files. After the second they remove their own.
    """
    file = storage_probe.ProbeFile(config.run, f"{request.token}-{context.rank}")
    written = _attempt(file.write) if context.is_host_leader else {}
    listening = _attempt(lambda: {"server": EchoServer(facts["machine"], request.token)})
    server: EchoServer | None = listening.get("server")
    addresses = _addresses(context.all_gather(json.dumps(server.address if server else None)))
    facts["network"] = listening if server is None else _attempt(lambda: _network(request, context, facts, addresses))
    visible = _attempt(lambda: {"unseen": _unseen(request, context, config)}) if context.is_host_leader else {}
    context.all_gather("")  # nobody removes anything before all have looked
    if server is not None:
        server.close()
    if context.is_host_leader:
        facts["run"] = _merge(written, visible, _attempt(file.remove))


def _network(request: ProbeRequest, context: TaskContext, facts: dict, addresses: dict[int, tuple[str, int]]) -> dict:
    others = {rank: address for rank, address in addresses.items() if rank != context.rank}
    return {
        "unreached": list(ping_all(others, request.token).items()),
        "driver": _reach_driver(request.driver),
        "loopback_name": hostname_is_loopback(),
        "interface": interface_towards(facts["machine"]),
    }


def _unseen(request: ProbeRequest, context: TaskContext, config: TrainConfig) -> list[str | int]:
    """Those whose probe files are not visible here: "driver" or ranks."""
    writers: list[str | int] = [*(["driver"] if request.driver else []), *context.host_leaders]
    return [
        writer for writer in writers if not storage_probe.probe_file_exists(config.run, f"{request.token}-{writer}")
    ]


def _addresses(gathered: list[str]) -> dict[int, tuple[str, int]]:
    """The addresses of the tasks with an echo server, by rank."""
    found = {rank: json.loads(text or "null") for rank, text in enumerate(gathered)}
    return {rank: tuple(address) for rank, address in found.items() if address is not None}


def _reach_driver(driver: tuple[str, int, str] | None) -> str | None:
    """None if the driver's listener is reached, otherwise the reason why not."""
    if driver is None:
        return None
    host, port, key = driver
    try:
        check_reachable(Address(host, port, bytes.fromhex(key)))
    except LOST as error:
        return f"{host}:{port}: {error}"
    return None


def _attempt(check: Callable[[], dict | None]) -> dict:
    """What the check returns, or ``error`` if it raised; with ``seconds``."""
    started = time.monotonic()
    try:
        found = check() or {}
    except Exception as error:  # of any kind: the other tasks must not wait for this one
        found = {"error": f"{type(error).__name__}: {error}"}
    return {**found, "seconds": time.monotonic() - started}


def _merge(*attempts: dict) -> dict:
    """Several attempts as one check with the first error and the total seconds."""
    merged: dict = {}
    for attempt in attempts:
        merged = {**attempt, **merged, "seconds": merged.get("seconds", 0) + attempt["seconds"]}
    return merged


def to_json(request: ProbeRequest) -> str:
    """The request as text."""
    return json.dumps(dataclasses.asdict(request))


def from_json(text: str) -> ProbeRequest:
    """The request from its text."""
    return ProbeRequest(**json.loads(text))
