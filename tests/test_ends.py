"""A training of one worker that cannot go on, or is told to stop, ends clearly and leaves what another can go on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrflow.base.errors import Stopped
from cxrflow.base.manifest import RunDirectory
from cxrflow.distributed import signals
from cxrflow.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]


def train(table, run, pace, *flags) -> subprocess.Popen:
    path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
    command = [
        sys.executable,
        ROOT / "jobs" / "train.py",
        "--table",
        table,
        "--run",
        run,
        "--model",
        "plain",
        "--epochs",
        "30",
        "--batch-size",
        "4",
        "--augment",
        "paced:policy",
        "--checkpoint-seconds",
        "0",
        *flags,
    ]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": path, "CXRFLOW_PACE": str(pace)},
    )


def until_said(job: subprocess.Popen, words: str) -> None:
    said = ""
    for line in job.stderr:
        said += line
        if words in line:
            return
    raise AssertionError(said)


def until_epoch(job: subprocess.Popen, epoch: int) -> None:
    until_said(job, f"epoch {epoch}/30:")


def assert_whole(run, table) -> None:
    """The last checkpoint can be read, and the same command ends the run with it."""
    read_checkpoint(RunDirectory(str(run)))
    with train(table, run, "/nowhere") as job:
        result = json.loads(job.communicate()[0].splitlines()[-1])
    assert job.returncode == 0 and result["epochs"] == 30


@pytest.fixture
def pace(tmp_path):
    (tmp_path / "pace").touch()
    return tmp_path / "pace"


def test_a_signal_ends_with_a_checkpoint_of_the_step_and_the_second_at_once(table, tmp_path, pace):
    run = tmp_path / "run"
    for number, status, epoch in ((signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 4)):
        with train(table, run, pace, "--checkpoint-seconds", "1000") as job:
            until_epoch(job, epoch)
            job.send_signal(number)
            said = job.communicate()[1]
        assert job.returncode == status, said
        assert f"stopped, with a checkpoint after {epoch} epochs" in said and "Traceback" not in said
        assert not (run / "_lease.json").exists()
        assert read_checkpoint(RunDirectory(str(run))).state["samples"] > 0
    with train(table, run, pace, "--checkpoint-seconds", "1000") as job:
        until_epoch(job, 5)
        os.mkfifo(f"{pace}.hold")  # the next step waits there, and with it the look for a signal
        job.send_signal(signal.SIGINT)
        until_said(job, "once more ends it at once")
        job.send_signal(signal.SIGINT)
        said = job.stderr.read()
        job.wait()
    assert job.returncode == 130 and "stopped at once" in said and "Traceback" not in said
    assert_whole(run, table)


class FromJava:
    """What Java's handler is given."""

    def getNumber(self):
        return signal.SIGINT


def test_one_ctrl_c_reaches_python_and_java_and_the_second_ends_the_main_thread_once():
    java = signals._Handler()
    with signals.held():
        signal.raise_signal(signal.SIGINT)
        java.handle(FromJava())
        assert signals.wanted() and not signals.insisted()
        with pytest.raises(Stopped, match="stopped at once"):
            signal.raise_signal(signal.SIGINT)
        java.handle(FromJava())  # while the main thread clears up
    with signals.held():  # of spark-submit's process, which a scheduler signals, Java alone hears
        java.handle(FromJava())
        with pytest.raises(Stopped, match="stopped at once"):
            java.handle(FromJava())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own for a run directory, of which the room and the right to write can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "cxrflow", folder], capture_output=True).returncode
    ):
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_run_directory_that_cannot_be_written_any_more(table, tmp_path, pace, small_disk):
    run, other = small_disk / "run", small_disk / "other"

    def fill():
        with open(other, "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(2**16))

    def mount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    for epoch, spoil, mend, words in (
        (2, fill, other.unlink, "No space left on device"),
        (4, lambda: mount("ro"), lambda: mount("rw"), "Read-only file system"),
    ):
        with train(table, run, pace) as job:
            until_epoch(job, epoch)
            spoil()
            said = job.communicate()[1]
        assert job.returncode == 1, said
        error = next(line for line in said.splitlines() if line.startswith("error: "))
        assert "cannot write the run directory" in error and words in error and "Traceback" not in said
        mend()
        read_checkpoint(RunDirectory(str(run)))
    assert_whole(run, table)


def test_weights_that_are_not_numbers_never_become_a_checkpoint(table, tmp_path):
    """A rate that lets a run begin well, so that there is a checkpoint, and then blows up."""
    run = tmp_path / "run"
    with train(table, run, "/nowhere", "--learning-rate", "1e36", "--warmup-epochs", "25") as job:
        said = job.communicate()[1]
    assert job.returncode == 1 and "not a number: lower --learning-rate" in said and "Traceback" not in said
    checkpoints = sorted((run / "checkpoints").iterdir())
    for path in checkpoints:
        with np.load(path) as content:
            assert all(np.isfinite(content[name]).all() for name in content.files), path


def test_the_newest_checkpoints_and_the_best_are_kept(table, tmp_path):
    run = tmp_path / "run"
    with train(table, run, "/nowhere", "--epochs", "6", "--checkpoint-seconds", "1000") as job:
        job.communicate()
    best = json.loads((run / "history.json").read_text())["best"]["epoch"]
    kept = {int(path.name.split("-")[0]) for path in (run / "checkpoints").iterdir()}
    assert kept == {5, 6, best}
