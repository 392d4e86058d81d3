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
from cxrflow.base.extras import require_modules
from cxrflow.base.keras_settings import local_backend

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
    requires: tuple[str, ...]
    """Modules that must be installed, beside the backend."""
    backend: str
    """Keras' backend on its workers."""
    advice: str = ""
    """What to do if a module of no extra is missing, or one that pip alone does not build."""

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
    "local": Launcher("cxrflow.launch.local", None, ("keras",), "tensorflow"),
    "horovod": Launcher(
        "cxrflow.launch.horovod",
        "HorovodLaunch",
        ("pyspark", "keras", "horovod"),
        "tensorflow",
        "install a C++ compiler and run make setup again, or use --launcher torch",
    ),
    "horovodrunner": Launcher(
        "cxrflow.launch.horovodrunner",
        "HorovodRunnerLaunch",
        ("pyspark", "keras", "sparkdl"),
        "tensorflow",
        "it comes with Databricks Runtime for Machine Learning up to 15.4 LTS ML, and from nowhere else; use "
        "--launcher horovod, or torch on later runtimes",
    ),
    "torch": Launcher("cxrflow.launch.torch_distributor", "TorchLaunch", ("pyspark", "keras"), "torch"),
}


def find_launcher(name: str) -> Launcher:
    """The launcher of that name. Raises UserError for an unknown name, or if a package is missing on the driver."""
    if name not in LAUNCHERS:
        raise UserError(f"--launcher: expected one of {', '.join(LAUNCHERS)}; got {name!r}")
    launcher, subject = LAUNCHERS[name], f"--launcher {name}"
    backend = local_backend() if name == "local" else launcher.backend
    for module in (*launcher.requires, backend):
        if importlib.util.find_spec(module) is not None:
            continue
        if module in ("horovod", "sparkdl"):
            raise UserError(f"{subject}: expected the package {module}, found none; {launcher.advice}")
        require_modules(subject, module)
    return launcher
