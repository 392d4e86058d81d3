"""Starting workers: one file a launcher, chosen by name.

A launcher's module has a class ``...Launch(spark, config, driver)``: ``run(function)`` calls ``function(config, worker)`` on
every worker and returns what rank 0 returned, and ``cancel()``, from another thread, has it end soon. Each worker starts
an ``agent.Agent`` first of all. A module is loaded when it is chosen, since each needs packages of its own; its constructor loads
those that the driver needs, and ``run`` none (``load_packages``).
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from cxrflow.base.errors import UserError


@dataclass(frozen=True)
class Launcher:
    """Where a launcher is, and what it needs."""

    module: str
    launch_class: str | None
    """Name of the launcher class in ``module``; None for the local launcher, which runs in this process."""
    requires: str
    """Module that must be installed."""
    install: str
    """What to do where it is missing."""
    backend: str
    """Keras' backend on its workers."""

    def load(self) -> type:
        """The launcher class."""
        return getattr(importlib.import_module(self.module), self.launch_class)


def load_packages(*names: str) -> None:
    """Load what a launcher's ``run`` needs before it runs in a thread of its own. Python's import now and then stops for ever
    where two threads load packages at a time."""
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
    """The launcher of that name. Raises UserError for an unknown name or where its package is missing."""
    if name not in LAUNCHERS:
        raise UserError(f"--launcher: expected one of {', '.join(LAUNCHERS)}; got {name!r}")
    launcher = LAUNCHERS[name]
    if importlib.util.find_spec(launcher.requires) is None:
        raise UserError(f"--launcher {name}: the package {launcher.requires} is not installed; {launcher.install}")
    return launcher
