"""A training by one worker that fails, or is asked to stop, ends with a clear message, and the same command resumes
it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrflow.base.manifest import RunDirectory
from cxrflow.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.spark

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 6
SECONDS = 120
"""For a job to end."""
NOT_PACED = "/nowhere"


class Job:
    """A training by the local launcher; killed at the end of the block if it still runs."""

    def __init__(self, table, run, pace, *flags, epochs: int = EPOCHS):
        path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
        common = (
            f"--table {table} --run {run} --model plain --epochs {epochs} --batch-size 4 --tta 1 "
            "--augment paced:policy --checkpoint-seconds 0"
        )
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "train_only.py", *common.split(), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": path, "CXRFLOW_PACE": str(pace)},
        )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_for_log(self, text: str) -> None:
        """The time limit of the test bounds it."""
        log = ""
        for line in self._process.stderr:
            log += line
            if text in line:
                return
        raise AssertionError(log)

    def wait_for_epoch(self, epoch: int) -> None:
        self.wait_for_log(f"epoch {epoch}/")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def finish(self) -> tuple[int, str, str]:
        """Exit status, standard output and the rest of standard error."""
        output, log = self._process.communicate(timeout=SECONDS)
        return self._process.returncode, output, log


def assert_resumable(run, table, *flags) -> None:
    """The last checkpoint can be read, and the same command resumes from it and ends the run."""
    read_checkpoint(RunDirectory(str(run)))
    with Job(table, run, NOT_PACED, *flags) as job:
        status, output, log = job.finish()
    assert status == 0, log
    assert json.loads(output.splitlines()[-1])["epochs"] == EPOCHS


@pytest.fixture
def pace(tmp_path):
    (tmp_path / "pace").write_text("0.1")  # 7 batches an epoch
    return tmp_path / "pace"


@pytest.fixture(scope="module")
def stopped_run(table, tmp_path_factory):
    """A run that SIGTERM stopped, then SIGINT, then two SIGINT within a step; resumed to its end.

    Returns the run directory and a list of (exit status, log) of the stopped jobs.
    """
    folder = tmp_path_factory.mktemp("stopped")
    run, pace, ended = folder / "run", folder / "pace", []
    pace.write_text("0.1")
    flags = ("--checkpoint-seconds", "1000")
    for number, epoch in ((signal.SIGTERM, 1), (signal.SIGINT, 3)):
        with Job(table, run, pace, *flags) as job:
            job.wait_for_epoch(epoch)
            job.signal(number)
            status, _, log = job.finish()
        ended.append((status, log))
        assert read_checkpoint(RunDirectory(str(run))).state["samples"] > 0, log
        assert not (run / "_lease.json").exists()
    with Job(table, run, pace, *flags) as job:
        job.wait_for_epoch(4)
        os.mkfifo(f"{pace}.hold")  # the next step waits there, so that the worker does not look for the signal
        job.signal(signal.SIGINT)
        job.wait_for_log("again to stop at once")
        job.signal(signal.SIGINT)
        status, _, log = job.finish()
    ended.append((status, log))
    assert_resumable(run, table, *flags)
    return run, ended


def test_one_signal_saves_a_checkpoint_within_the_epoch(stopped_run):
    for (status, log), expected, epoch in zip(stopped_run[1], (143, 130), (1, 3), strict=False):
        assert status == expected, log
        assert f"stopped, with a checkpoint after {epoch} epochs" in log and "Traceback" not in log


def test_a_second_signal_stops_at_once(stopped_run):
    status, log = stopped_run[1][2]
    assert status == 130 and "stopped at once" in log and "Traceback" not in log


def test_the_newest_checkpoints_and_the_best_one_remain(stopped_run):
    """Checkpoints within an epoch, which the signals caused, are gone."""
    run, _ = stopped_run
    best = json.loads((run / "history.json").read_text())["best"]["epoch"]
    epochs = {int(path.name.split("-")[0]) for path in (run / "checkpoints").iterdir()}
    assert epochs == {EPOCHS - 1, EPOCHS, best}


@pytest.fixture
def small_disk(tmp_path):
    """A file system for a run directory, whose free space and permission to write can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "cxrflow", folder]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_run_directory_that_becomes_unwritable(table, tmp_path, pace, small_disk):
    run, other = small_disk / "run", small_disk / "other"

    def fill():
        with open(other, "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(2**16))

    def mount(option):
        subprocess.run(["mount", "-o", f"remount,{option}", small_disk], check=True)

    for epoch, damage, repair, text in (
        (1, fill, other.unlink, "No space left on device"),
        (3, lambda: mount("ro"), lambda: mount("rw"), "Read-only file system"),
    ):
        with Job(table, run, pace) as job:
            job.wait_for_epoch(epoch)
            damage()
            status, _, log = job.finish()
        assert status == 1, log
        error = next(line for line in log.splitlines() if line.startswith("error: "))
        assert "--run: expected to write to" in error and text in error and "Traceback" not in log
        repair()
        read_checkpoint(RunDirectory(str(run)))
    assert_resumable(run, table)


def test_weights_that_are_not_finite_never_become_a_checkpoint(table, tmp_path):
    """The learning rate rises from a value that trains, so that there is a checkpoint, to one that overflows."""
    run = tmp_path / "run"
    with Job(table, run, NOT_PACED, "--learning-rate", "1e36", "--warmup-epochs", "25", epochs=30) as job:
        status, _, log = job.finish()
    assert status == 1 and "not a number; lower --learning-rate" in log and "Traceback" not in log
    for path in sorted((run / "checkpoints").iterdir()):
        with np.load(path) as content:
            assert all(np.isfinite(content[name]).all() for name in content.files), path
