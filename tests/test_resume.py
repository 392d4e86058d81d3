"""A run that one launcher began resumes under every other one, with the default model and optimizer."""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import Stopped
from cxrflow.base.manifest import RunDirectory
from cxrflow.launch.supervisor import supervise
from cxrflow.training.checkpoint import read_checkpoint
from synthetic_table import make_table

pytestmark = pytest.mark.cluster

LAUNCHERS = ["local", "horovod", "torch"]
EPOCHS = 2
LOCAL = """
import signal, sys
from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.launch.local import launch
from cxrflow.training.fit import fit
what, table, *runs = sys.argv[1:]
def function(config, worker):
    if what == "begin":
        signal.raise_signal(signal.SIGTERM)
    return fit(config, worker)
for run in runs:
    config = TrainConfig(table=table, run=run, epochs=2, batch_size=4)
    launch(function, config, lambda event: None, lambda: None)
"""


def train(spark, table, runs, launcher, begin: bool):
    """Train one run after the other on the same workers of a real launcher. ``begin``: stop inside the first epoch,
    after a checkpoint."""
    if launcher == "local":
        arguments = [sys.executable, "-c", LOCAL, "begin" if begin else "resume", str(table), *map(str, runs)]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 0 or (begin and "Stopped" in done.stderr), done.stderr
        return

    def fit_all(config, worker, runs, begin):  # nested, so that it travels by value: workers cannot import this file
        import dataclasses

        from cxrflow.training.fit import fit

        if begin:
            worker.stop_requested = lambda: True  # at the first step, however late the driver's signal is
        return [fit(dataclasses.replace(config, run=run), worker) for run in runs][-1]

    def stop(event):
        if begin and not stopping:
            stopping.append(event)
            signal.raise_signal(signal.SIGTERM)

    stopping: list[dict] = []
    config = TrainConfig(
        table=str(table),
        run=str(runs[0]),
        launcher=launcher,
        workers=2,
        epochs=EPOCHS,
        batch_size=4,
        max_restarts=0,
    )
    supervise(
        spark,
        config,
        functools.partial(fit_all, runs=[str(run) for run in runs], begin=begin),
        lambda config, slots: config,
        stop,
        lambda: None,
    )


@pytest.fixture(scope="module")
def small_table(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "table"
    make_table(folder, {"train": [6, 6, 6, 6], "val": [6, 6]}, height=32, width=32)
    return folder


@pytest.fixture(scope="module")
def begun(spark, small_table, tmp_path_factory):
    """By launcher, the directory of a run that it began, with a checkpoint inside epoch 1."""
    runs = {}
    for launcher in LAUNCHERS:
        runs[launcher] = run = tmp_path_factory.mktemp(launcher) / "run"
        with contextlib.suppress(Stopped):
            train(spark, small_table, [run], launcher, begin=True)
        state = read_checkpoint(RunDirectory(str(run)), arrays=False).state
        assert state["epoch"] == 0 and state["samples"] > 0
    return runs


@pytest.fixture(scope="module", params=LAUNCHERS)
def resumed(request, spark, small_table, begun, tmp_path_factory):
    """By the launcher that began it, the directory of a run that this launcher resumed."""
    folder = tmp_path_factory.mktemp(f"resumed-{request.param}")
    others = {first: run for first, run in begun.items() if first != request.param}
    runs = {first: Path(shutil.copytree(run, folder / first)) for first, run in others.items()}
    train(spark, small_table, list(runs.values()), request.param, begin=False)
    return runs


def test_a_launcher_resumes_the_runs_of_every_other_one(resumed):
    assert len(resumed) == len(LAUNCHERS) - 1
    for run in resumed.values():
        directory = RunDirectory(str(run))
        history = directory.read(directory.history, "train")
        assert history["finished"] and len(history["epochs"]) == EPOCHS
        assert history["epochs"][0]["fed"]["samples"] == 24
