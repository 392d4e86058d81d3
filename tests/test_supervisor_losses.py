"""Trainings on a standalone cluster that lose workers, executors or the driver."""

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

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 20
HANG_SECONDS = 10


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    command: str

    def has(self, variable: str) -> bool:
        """Whether it was started with this NAME=value in its environment."""
        try:
            return os.fsencode(variable) in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            return False


def processes() -> list[Process]:
    """All processes of this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if stat[0] != "Z":
            found.append(Process(int(folder.name), int(stat[1]), command))
    return found


def wait_for(condition, seconds: float, what: str):
    """The value of ``condition()`` as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two Spark workers of one slot each: the master's URL and the folder of process ids."""
    state = tmp_path_factory.mktemp("losses") / "state"
    path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
    flags = f"--state {state} --workers 2 --memory 1g --port 0 --webui-port 0".split()
    done = subprocess.run(
        [ROOT / "cluster" / "start.sh", *flags],
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
        self._pace.write_text("0.3")
        self.run = folder / "run"
        spark_flags = f"--master {master} --driver-memory 512m --executor-memory 512m".split()
        spark_flags += ["--conf", f"spark.executorEnv.CXRFLOW_PACE={self._pace}"]
        train_flags = (
            f"--table {table} --run {self.run} --launcher {launcher} --workers 2 --model plain --batch-size 4 "
            f"--epochs {EPOCHS} --augment paced:policy --checkpoint-seconds 0 --hang-seconds {HANG_SECONDS} --tta 1"
        ).split()
        command = ["spark-submit", *spark_flags, str(ROOT / "tests" / "train_only.py"), *train_flags, *flags]
        path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", 'source "$0" && exec "$@"', str(ROOT / "cluster" / "env.sh"), *command],
                stdout=log,
                stderr=log,
                env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONPATH": path},
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for_log(self, pattern: str, times: int = 1, seconds: float = 120) -> re.Match:
        """The last match, as soon as the log has so many."""

        def look():
            found = list(re.finditer(pattern, self.log()))
            assert len(found) >= times or self._process.poll() is None, self.log()
            return found[-1] if len(found) >= times else None

        try:
            return wait_for(look, seconds, pattern)
        except AssertionError:
            print(self.log())
            raise

    def workers(self, launch: int) -> dict[int, int]:
        """Process ids by rank, in the middle of an epoch of the given launch; 1 is the first."""
        started = self.wait_for_log(r"training on: (.*)", times=launch)
        # After an epoch of this launch, there is a checkpoint inside an epoch.
        wait_for(
            lambda: re.search(r"epoch \d+/", self.log()[started.end() :]) or self._process.poll() is not None,
            120,
            "an epoch",
        )
        return {int(rank): int(pid) for rank, pid in re.findall(r"worker (\d+) \(process (\d+) on ", started[1])}

    def signal(self, number: int) -> None:
        """To spark-submit's process, the only one that a user knows."""
        os.kill(self._process.pid, number)

    def press_ctrl_c(self) -> None:
        """To all processes that the terminal started."""
        os.killpg(self._process.pid, signal.SIGINT)

    def finish(self, seconds: float = 120) -> int:
        """Train at full speed, and return the exit status."""
        self._pace.unlink()
        return self._process.wait(seconds)

    def wait(self, seconds: float = 60) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        """At the end of a test, passed or failed."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def training_processes(self) -> list[Process]:
        """Workers and agents of this job that still run, whatever their parents are now."""
        return [
            process
            for process in processes()
            if re.search(
                r"cxrflow\.distributed\.agent|gloo_exec_fn|torch\.distributed\.run|/train\.py$",
                process.command.strip(),
            )
            and "spark-submit" not in process.command
            and process.has(f"CXRFLOW_PACE={self._pace}")
        ]

    def result(self) -> dict:
        # Java may log a connection that ended earlier after the result.
        return json.loads([line for line in self.log().splitlines() if line.startswith("{")][-1])

    def events(self, kind: str) -> list[dict]:
        lines = map(json.loads, (self.run / "events.jsonl").read_text().splitlines())
        return [event for event in lines if event["event"] == kind]

    def newest_checkpoint(self) -> str:
        return max(path.name for path in (self.run / "checkpoints").glob("*.npz"))


def spark_processes(worker_pid: int) -> tuple[int, int]:
    """The executor's JVM and the Spark task's Python process above a worker's process."""
    by_pid = {process.pid: process for process in processes()}
    chain = [by_pid[worker_pid]]
    while chain[-1].parent in by_pid:
        chain.append(by_pid[chain[-1].parent])
    executor = next(process.pid for process in chain if "CoarseGrainedExecutorBackend" in process.command)
    task = next(process.pid for process in chain if process.command.strip().endswith("pyspark.daemon"))
    return executor, task


@dataclass
class Story:
    """What happened to one training, by three jobs one after the other."""

    launcher: str
    expected_status: int
    seconds: dict[str, list[float]]
    """From each loss until the driver named the worker, and until the next launch."""
    training_processes: list[int]
    """How many ran: before the driver was killed, and after each of the jobs."""
    checkpoints: list[str]
    """The newest after each of the first two jobs."""
    leases: list[bool]
    """Whether the run directory was still leased after each job."""
    status: list[int]
    """Exit status of the second and the third job."""
    jobs: list[Job]

    @property
    def run(self) -> Path:
        return self.jobs[-1].run

    def events(self, kind: str) -> list[dict]:
        return self.jobs[-1].events(kind)


def lose(story: Story, launch: int, rank: int, what: str, number=signal.SIGKILL, find=lambda pid: pid) -> None:
    """Send a signal to a worker, or to the process above it that ``find`` names, and wait for the next launch."""
    job = story.jobs[-1]
    pid = job.workers(launch)[rank]
    lost = time.monotonic()
    os.kill(find(pid), number)
    job.wait_for_log(rf"worker {rank} \(process {pid} on \S+\) was lost .*epoch \d+ at step \d+", seconds=30)
    noticed = time.monotonic()
    job.wait_for_log(r"training on: ", times=launch + 1)
    story.seconds[what] = [round(noticed - lost, 1), round(time.monotonic() - lost, 1)]


@pytest.fixture(scope="module", params=["horovod", "torch"])
def story(request, cluster, table, tmp_path_factory):
    launcher, folder = request.param, tmp_path_factory.mktemp(request.param)
    story = Story(launcher, {"horovod": 143, "torch": 130}[launcher], {}, [], [], [], [], [])

    def start() -> Job:
        story.jobs.append(Job(cluster, folder, launcher, table, "--max-restarts", "2"))
        return story.jobs[-1]

    def ended(job: Job, seconds: float) -> None:
        wait_for(lambda: not job.training_processes(), seconds, "the workers end")
        story.training_processes.append(len(job.training_processes()))
        story.leases.append((job.run / "_lease.json").exists())

    try:
        job = start()
        lose(story, 1, 1, "worker killed")
        lose(story, 2, 0, "executor killed", find=lambda pid: spark_processes(pid)[0])
        job.workers(3)
        story.training_processes.append(len(job.training_processes()))
        job.signal(signal.SIGKILL)  # Java, and with it Python: neither can clean up
        ended(job, 20)
        story.checkpoints.append(job.newest_checkpoint())

        job = start()
        job.workers(1)
        job.signal(signal.SIGTERM) if launcher == "horovod" else job.press_ctrl_c()
        story.status.append(job.wait())
        ended(job, 5)
        story.checkpoints.append(job.newest_checkpoint())

        job = start()
        lose(story, 1, 1, "Spark's Python process killed", find=lambda pid: spark_processes(pid)[1])
        lose(story, 2, 1, "worker stopped", signal.SIGSTOP)
        job.workers(3)
        story.status.append(job.finish())
        ended(job, 5)
        print(f"{launcher}, seconds to notice and to restart: {story.seconds}")
        yield story
    finally:
        for job in story.jobs:
            job.kill()


def test_training_survives_lost_workers_and_ends_with_the_model(story):
    job = story.jobs[-1]
    assert story.status[-1] == 0, job.log()
    result = job.result()
    assert (result["epochs"], result["restarts"], result["workers"]) == (EPOCHS, 2, 2)
    assert (story.run / "model.keras").exists()


def test_each_loss_is_named(story):
    """In the log, as ``lose`` has checked, in the result and in the events."""
    assert len(story.seconds) == 4
    lost = story.jobs[-1].result()["lost"]
    assert len(lost) == 2 and "stopped" in lost[1]
    reasons = [event["why"] for event in story.events("restart")]
    assert len(reasons) == 4 and reasons[2:] == lost


def test_every_sample_is_fed_once_in_every_epoch(story):
    history = json.loads((story.run / "history.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, EPOCHS + 1))
    assert all(epoch["fed"]["samples"] == epoch["fed"]["expected"] for epoch in history)


def test_each_launch_starts_further_than_the_one_before(story):
    images = [event["images"] for event in story.events("start")]
    assert len(images) == 7 and images == sorted(set(images))


def test_no_job_leaves_a_process(story):
    """Whether it finished, was asked to stop, or its driver was killed."""
    before, *after = story.training_processes
    assert before >= 4  # two workers, two agents
    assert after == [0, 0, 0]


def test_a_signal_stops_with_a_checkpoint(story):
    job = story.jobs[1]
    assert story.status[0] == story.expected_status, job.log()
    assert "stopped, with a checkpoint after" in job.log()
    assert story.checkpoints[1] > story.checkpoints[0]
    assert story.leases[1:] == [False, False]


def test_the_events_say_how_each_job_ended(story):
    assert [end["status"] for end in story.events("end")][-2:] == ["killed", "finished"]
