"""Trainings on a standalone cluster that lose what a night can take from them: workers, executors, the driver."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 30
LAUNCHERS = ["horovod", "torch"]
HANG_SECONDS = 10


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    state: str
    command: str

    def has(self, variable: str) -> bool:
        """Whether it was started with that NAME=value in its environment."""
        try:
            return os.fsencode(variable) in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            return False


def processes() -> list[Process]:
    """All that run on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if stat[0] != "Z":
            found.append(Process(int(folder.name), int(stat[1]), stat[0], command))
    return found


def until(condition, seconds: float, what: str):
    """What ``condition()`` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two Spark workers of one slot each; the master's URL and the folder of process ids."""
    state = tmp_path_factory.mktemp("survive") / "state"
    path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
    done = subprocess.run(
        [
            ROOT / "cluster" / "start.sh",
            "--state",
            state,
            "--workers",
            "2",
            "--memory",
            "1g",
            "--port",
            "0",
            "--webui-port",
            "0",
        ],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    try:
        yield done.stdout.splitlines()[-1], state
    finally:
        subprocess.run([ROOT / "cluster" / "stop.sh", "--state", state], timeout=60)


class Job:
    """A training by spark-submit, in a process group of its own as a terminal would start it."""

    def __init__(self, cluster, folder: Path, launcher: str, table: Path, *flags: str):
        master, self._state = cluster
        self._log, self._pace = folder / f"{time.monotonic_ns()}.log", folder / "pace"
        self._pace.touch()
        self.run = folder / "run"
        command = [
            "spark-submit",
            "--master",
            master,
            "--driver-memory",
            "512m",
            "--executor-memory",
            "512m",
            "--conf",
            f"spark.executorEnv.CXRFLOW_PACE={self._pace}",
            str(ROOT / "jobs" / "train.py"),
            "--table",
            str(table),
            "--run",
            str(self.run),
            "--launcher",
            launcher,
            "--workers",
            "2",
            "--model",
            "plain",
            "--batch-size",
            "4",
            "--epochs",
            str(EPOCHS),
            "--augment",
            "paced:policy",
            "--checkpoint-seconds",
            "0",
            "--hang-seconds",
            str(HANG_SECONDS),
            "--tta",
            "1",
            *flags,
        ]
        path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", 'source "$0" && exec "$@"', str(ROOT / "cluster" / "env.sh"), *command],
                stdout=log,
                stderr=log,
                env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONPATH": path},
                start_new_session=True,
            )

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def until_said(self, words: str, times: int = 1, seconds: float = 180) -> re.Match:
        """The last match, as soon as there are so many."""

        def look():
            found = list(re.finditer(words, self.said()))
            if len(found) >= times:
                return found[-1]
            assert self._process.poll() is None, self.said()

        try:
            return until(look, seconds, words)
        except AssertionError:
            print(self.said())
            raise

    def workers(self, launch: int) -> dict[int, int]:
        """The training processes by rank, in the middle of an epoch of the given launch: 1 is the first."""
        started = self.until_said(r"training on: (.*)", times=launch)
        # Of this launch, and far enough to have a checkpoint inside an epoch.
        until(
            lambda: re.search(r"epoch \d+/", self.said()[started.end() :]) or self._process.poll() is not None,
            120,
            "an epoch",
        )
        return {int(rank): int(pid) for rank, pid in re.findall(r"worker (\d+) \(process (\d+) on ", started[1])}

    def signal(self, number: int) -> None:
        """To the one process that a person knows, spark-submit's."""
        os.kill(self._process.pid, number)

    def press_ctrl_c(self) -> None:
        """To all that the terminal started."""
        os.killpg(self._process.pid, signal.SIGINT)

    def finish(self, seconds: float = 120) -> int:
        """Train as fast as it goes, and return the exit status."""
        self._pace.unlink()
        return self._process.wait(seconds)

    def end(self, seconds: float = 60) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        """At the end of a test, whatever came of it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def training_processes(self) -> list[Process]:
        """Workers and agents of this job that still run, whoever their parents are now."""
        return [
            process
            for process in processes()
            if re.search(
                r"cxrflow\.launch\.agent|gloo_exec_fn|torch\.distributed\.run|/train\.py$", process.command.strip()
            )
            and "spark-submit" not in process.command
            and process.has(f"CXRFLOW_PACE={self._pace}")
        ]

    def result(self) -> dict:
        # Java may say something after it, of a connection that ended before.
        return json.loads([line for line in self.said().splitlines() if line.startswith("{")][-1])


@pytest.fixture
def start(cluster, tmp_path, table):
    jobs = []

    def start(launcher, *flags):
        jobs.append(Job(cluster, tmp_path, launcher, table, *flags))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


def spark_processes(cluster, worker_pid: int) -> tuple[int, int]:
    """The executor's JVM and the Python process of the Spark task above a training process."""
    parents = {process.pid: process for process in processes()}
    chain = [parents[worker_pid]]
    while chain[-1].parent in parents:
        chain.append(parents[chain[-1].parent])
    executor = next(process.pid for process in chain if "CoarseGrainedExecutorBackend" in process.command)
    task = next(process.pid for process in chain if process.command.strip().endswith("pyspark.daemon"))
    return executor, task


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_lost_workers_are_named_and_training_ends_with_the_model(start, cluster, launcher):
    job = start(launcher, "--max-restarts", "4")
    seconds = {}

    def lose(launch, rank, what, number=signal.SIGKILL, find=lambda pid: pid):
        pid = job.workers(launch)[rank]
        lost = time.monotonic()
        os.kill(find(pid), number)
        job.until_said(rf"worker {rank} \(process {pid} on \S+\) was lost .*epoch \d+ at step \d+", seconds=30)
        noticed = time.monotonic()
        job.until_said(r"training on: ", times=launch + 1)
        seconds[what] = [round(noticed - lost, 1), round(time.monotonic() - lost, 1)]

    lose(1, 1, "worker killed")
    lose(2, 0, "executor killed", find=lambda pid: spark_processes(cluster, pid)[0])
    lose(3, 1, "Spark's Python process killed", find=lambda pid: spark_processes(cluster, pid)[1])
    lose(4, 1, "worker stopped", signal.SIGSTOP)
    job.workers(5)
    assert job.finish() == 0, job.said()
    print(f"{launcher}, seconds to notice and to start again: {seconds}")
    result = job.result()
    assert (result["epochs"], result["restarts"], result["workers"]) == (EPOCHS, 4, 2)
    assert len(result["lost"]) == 4 and "stopped" in result["lost"][3]
    history = json.loads((job.run / "history.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, EPOCHS + 1))
    assert all(epoch["fed"]["samples"] == epoch["fed"]["expected"] for epoch in history)
    assert (job.run / "model.keras").exists()
    assert job.training_processes() == []
    assert [event["why"] for event in events(job, "restart")] == result["lost"]
    places = [event["images"] for event in events(job, "start")]
    assert (
        len(places) == 5
        and places == sorted(set(places))
        and [end["status"] for end in events(job, "end")] == ["finished"]
    )


@pytest.mark.parametrize(
    ("launcher", "stop", "status"),
    [("horovod", lambda job: job.signal(signal.SIGTERM), 143), ("torch", lambda job: job.press_ctrl_c(), 130)],
)
def test_a_driver_that_is_killed_or_told_to_stop_leaves_no_process_and_the_same_command_goes_on(
    start, launcher, stop, status
):
    job = start(launcher)
    job.workers(1)
    assert len(job.training_processes()) >= 4  # two workers, two agents
    job.signal(signal.SIGKILL)  # Java, and with it Python: nobody can say goodbye
    until(lambda: not job.training_processes(), 20, "the workers end")
    reached = checkpoint(job)

    job = start(launcher)
    job.workers(1)
    stop(job)
    assert job.end() == status, job.said()
    assert "stopped, with a checkpoint after" in job.said()
    until(lambda: not job.training_processes(), 5, "the workers end")
    assert checkpoint(job) > reached and not (job.run / "_lease.json").exists()

    job = start(launcher)
    assert job.finish() == 0, job.said()
    history = json.loads((job.run / "history.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, EPOCHS + 1))
    assert all(epoch["fed"]["samples"] == epoch["fed"]["expected"] for epoch in history)
    assert [end["status"] for end in events(job, "end")][-2:] == ["killed", "finished"]


def events(job: Job, kind: str) -> list[dict]:
    lines = map(json.loads, (job.run / "events.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == kind]


def checkpoint(job: Job) -> str:
    return max(path.name for path in (job.run / "checkpoints").glob("*.npz"))
