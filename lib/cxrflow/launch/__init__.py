"""Launchers, which start the workers: one module each, chosen by name.

A launcher's module has a class ``...Launch(spark, config, monitor)`` with two methods: ``run(function)`` calls
``function(config, worker)`` on every worker and returns rank 0's result; ``cancel()``, called from another thread,
makes ``run`` end soon. Each worker starts an ``Agent`` before anything else.

A launcher's module is imported only when it is chosen, because each needs other packages. Its constructor imports all
packages that the driver needs, and ``run`` none: see ``load_packages``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cxrflow.base.errors import UserError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from cxrflow.base.config import TrainConfig
    from cxrflow.distributed.agent import MonitorEndpoint
    from cxrflow.distributed.worker import Worker


class Launch(Protocol):
    """One start of a training's workers."""

    def __init__(self, spark: SparkSession, config: TrainConfig, monitor: MonitorEndpoint): ...

    def run(self, function: Callable[[TrainConfig, Worker], dict]) -> dict:
        """Rank 0's result. Raises an exception of the launcher's own if a worker fails."""
        ...

    def cancel(self) -> None:
        """Make ``run`` end soon, if possible."""
        ...


@dataclass(frozen=True)
class Launcher:
    """Where a launcher's code is, and what it needs."""

    module: str
    launch_class: str | None
    """Name of the launch class in ``module``; None for the local launcher, which runs in the driver's process."""
    requires: str
    """Module that must be installed."""
    install: str
    """What to do if it is missing."""
    backend: str
    """Keras' backend on its workers."""

    def load(self) -> type[Launch]:
        """The launch class. Raises ValueError for the local launcher."""
        if self.launch_class is None:
            raise ValueError(f"{self.module} has no launch class; call its launch function")
        return getattr(importlib.import_module(self.module), self.launch_class)


def load_packages(*names: str) -> None:
    """Import what a launcher's ``run`` needs, before ``run`` starts in a thread of its own. Python's import system
    sometimes deadlocks when two threads import packages at the same time."""
    for name in names:
        importlib.import_module(name)


LAUNCHERS = {
    "local": Launcher("cxrflow.launch.local", None, "keras", "pip install cxrflow[train,tensorflow]", "tensorflow"),
    "horovod": Launcher(
        "cxrflow.launch.horovod",
        "HorovodLaunch",
        "horovod",
        "install a C++ compiler and run make setup again, or use --launcher torch",
        "tensorflow",
    ),
    "horovodrunner": Launcher(
        "cxrflow.launch.horovodrunner",
        "HorovodRunnerLaunch",
        "sparkdl",
        "it comes with Databricks Runtime for Machine Learning up to 15.4 LTS ML, and from nowhere "
        "else; use --launcher horovod, or torch on later runtimes",
        "tensorflow",
    ),
    "torch": Launcher(
        "cxrflow.launch.torch_distributor",
        "TorchLaunch",
        "torch",
        "pip install torch, or use --launcher horovod",
        "torch",
    ),
}


def find_launcher(name: str) -> Launcher:
    """The launcher of that name. Raises UserError for an unknown name, or if its package is missing."""
    if name not in LAUNCHERS:
        raise UserError(f"--launcher: expected one of {', '.join(LAUNCHERS)}; got {name!r}")
    launcher = LAUNCHERS[name]
    if importlib.util.find_spec(launcher.requires) is None:
        raise UserError(f"--launcher {name}: the package {launcher.requires} is not installed; {launcher.install}")
    return launcher
