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
begin = sys.argv[3] == "begin"
def function(config, worker):
    if begin:
        signal.raise_signal(signal.SIGTERM)
    return fit(config, worker)
config = TrainConfig(table=sys.argv[1], run=sys.argv[2], epochs=2, batch_size=4)
launch(function, config, lambda event: None, lambda: None)
"""


def config_of(table, run, launcher, **changes):
    size = {"launcher": launcher, "workers": 1 if launcher == "local" else 2}
    return TrainConfig(table=str(table), run=str(run), epochs=EPOCHS, batch_size=4, max_restarts=0, **size, **changes)


def train(spark, table, run, launcher, begin: bool):
    """Train with a real launcher. ``begin``: stop inside the first epoch, after a checkpoint."""
    if launcher == "local":
        arguments = [sys.executable, "-c", LOCAL, str(table), str(run), "begin" if begin else "resume"]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 0 or (begin and "Stopped" in done.stderr), done.stderr
        return

    def fit(config, worker, begin):  # nested, so that it travels by value: workers cannot import this file
        from cxrflow.training.fit import fit

        if begin:
            worker.stop_requested = lambda: True  # at the first step, however late the driver's signal is
        return fit(config, worker)

    def stop(event):
        if begin and not stopping:
            stopping.append(event)
            signal.raise_signal(signal.SIGTERM)

    stopping: list[dict] = []
    supervise(
        spark,
        config_of(table, run, launcher),
        functools.partial(fit, begin=begin),
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
    """``begun(launcher)``: the directory of a run that this launcher began, with a checkpoint inside epoch 1."""

    @functools.cache
    def begin(launcher):
        run = tmp_path_factory.mktemp(launcher) / "run"
        with contextlib.suppress(Stopped):
            train(spark, small_table, run, launcher, begin=True)
        state = read_checkpoint(RunDirectory(str(run)), arrays=False).state
        assert state["epoch"] == 0 and state["samples"] > 0
        return run

    return begin


@pytest.mark.timeout(900)
@pytest.mark.parametrize("second", LAUNCHERS)
@pytest.mark.parametrize("first", LAUNCHERS)
def test_a_run_resumes_under_every_launcher(spark, small_table, begun, tmp_path, first, second):
    run = shutil.copytree(begun(first), tmp_path / "run")
    train(spark, small_table, run, second, begin=False)
    directory = RunDirectory(str(run))
    history = directory.read(directory.history, "train")
    assert history["finished"] and len(history["epochs"]) == EPOCHS
    assert history["epochs"][0]["fed"]["samples"] == 24
