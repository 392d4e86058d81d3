"""The scripts for a standalone cluster, with real master and worker processes on the loopback address."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from cluster_scripts import ANY_PORTS, CLUSTER, script

# Both tasks of a barrier stage run at the same time, so with one core per worker they are on two workers. An
# executor's Python processes run in its folder, which is named after the executor.
JOB = """
import os
from pyspark import BarrierTaskContext
from pyspark.sql import SparkSession

def where(_):
    BarrierTaskContext.get().barrier()
    yield os.path.basename(os.getcwd())

context = SparkSession.builder.getOrCreate().sparkContext
print(*sorted(context.parallelize(range(2), 2).barrier().mapPartitions(where).collect()))
"""


def start(state: Path, *arguments: object) -> str:
    """Start processes and return the master's URL."""
    done = script("start", "--state", state, "--memory", "1g", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def process_ids(state: Path) -> dict[str, int]:
    return {file.stem: int(file.read_text().split()[0]) for file in state.glob("*.pid")}


def runs(pid: int) -> bool:
    """Whether the process runs. One that has ended may be listed as a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def master_json(state: Path) -> dict:
    page = re.search(r"MasterWebUI.* started at http://\S+:(\d+)", (state / "logs" / "master.log").read_text())[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{page}/json/", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def state(tmp_path):
    """A new state folder. The processes of this one and of ``elsewhere`` are stopped at the end."""
    yield tmp_path / "state"
    for folder in (tmp_path / "state", tmp_path / "elsewhere"):
        script("stop", "--state", folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--wrokers", "2"], "expected a known flag, got '--wrokers'"),
        (["--workers"], "--workers: expected a value after it, got --state"),
        (["--workers", "two"], "--workers: expected a whole number above 0, or 0 for a master alone, got 'two'"),
        (["--master", "spark://127.0.0.1:7077", "--workers", "0"], "or 0 for a master alone, got '0'"),
        (["--cores", "two"], "--cores: expected a whole number above 0, got 'two'"),
        (["--memory", "2"], "--memory: expected a size such as 512m or 2g, got '2'"),
        (["--port", "65536"], "--port: expected a number from 0 to 65535, got '65536'"),
        (["--master", "localhost:7077"], "--master: expected spark://HOST:PORT, got 'localhost:7077'"),
        (["--master", "spark://127.0.0.1:7077", "--port", "1"], "--port, --webui-port: expected neither with --master"),
        (
            ["--master", "spark://192.0.2.1:7077"],
            "--host: expected the address at which spark://192.0.2.1:7077 reaches",
        ),
    ],
)
def test_bad_flag_of_start(state, flags, message):
    done = script("start", *flags, "--state", state)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not state.exists()


def test_bad_flag_of_stop():
    for flags, message in (
        (["--sate", "x"], "expected a known flag, got '--sate'"),
        (["--state"], "--state: expected a value after it, got nothing"),
    ):
        done = script("stop", *flags)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


@pytest.mark.parametrize("name", ["start", "stop"])
def test_help(name):
    done = script(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--state DIR" in done.stdout


@pytest.mark.cluster
def test_two_workers_run_a_job_and_stop(state, tmp_path):
    url = start(state, "--workers", 2, "--cores", 1, *ANY_PORTS)
    assert re.fullmatch(r"spark://127\.0\.0\.1:\d+", url)

    found = master_json(state)
    assert (found["url"], found["status"], found["aliveworkers"]) == (url, "ALIVE", 2)
    assert [(worker["state"], worker["cores"], worker["host"]) for worker in found["workers"]] == [
        ("ALIVE", 1, "127.0.0.1")
    ] * 2

    pids = process_ids(state)
    assert set(pids) == {"master", "worker-1", "worker-2"}
    again = script("start", "--state", state, *ANY_PORTS)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"a cluster already runs in {state}" in again.stderr
    assert process_ids(state) == pids
    assert all(map(runs, pids.values()))

    job = tmp_path / "job.py"
    job.write_text(JOB)
    # A barrier stage needs all its slots at the start, and Spark waits for them only if the number of cores is given.
    submit = [
        "spark-submit",
        "--master",
        url,
        "--total-executor-cores",
        "2",
        "--executor-memory",
        "512m",
        "--driver-memory",
        "512m",
        str(job),
    ]
    command = ["bash", "-c", 'source "$0" && exec "$@"', str(CLUSTER / "env.sh"), *submit]
    done = subprocess.run(
        command, env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1"]

    stopped = script("stop", "--state", state)
    assert stopped.returncode == 0, stopped.stderr
    assert not any(map(runs, pids.values()))
    assert process_ids(state) == {}


@pytest.mark.cluster
def test_workers_join_a_master_elsewhere(state, tmp_path):
    url = start(state, "--workers", 1, *ANY_PORTS)
    elsewhere = tmp_path / "elsewhere"
    assert start(elsewhere, "--master", url, "--workers", 1, "--cores", 3) == url
    assert sorted(worker["cores"] for worker in master_json(state)["workers"]) == [1, 3]

    here, there = process_ids(state), process_ids(elsewhere)
    assert set(there) == {"worker-1"}
    assert script("stop", "--state", elsewhere).returncode == 0
    assert not any(map(runs, there.values()))
    assert all(map(runs, here.values()))


@pytest.mark.cluster
def test_taken_port(state):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = script("start", "--state", state, "--port", taken.getsockname()[1], "--webui-port", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert "master ended before it was ready" in done.stderr
    assert "Address already in use" in done.stderr
    assert process_ids(state) == {}


def test_stop_leaves_a_process_that_took_over_the_id(state):
    """After a restart of the machine, a recorded id may belong to another process."""
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            state.mkdir()
            (state / "master.pid").write_text(f"{other.pid} 1\n")
            assert script("stop", "--state", state).returncode == 0
            assert other.poll() is None
            assert process_ids(state) == {}
        finally:
            other.kill()


def test_stop_where_nothing_runs(state):
    done = script("stop", "--state", state)
    assert done.returncode == 0
    assert "no cluster to stop" in done.stderr
