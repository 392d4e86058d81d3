"""Preflights in real Spark applications: in local mode, and on a cluster of two addresses of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster_scripts import ANY_PORTS, script
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.pipeline.train_job import train
from cxrflow.preflight.barrier_stage import check_workers
from cxrflow.preflight.verdict import CHECKS

ROOT = Path(__file__).resolve().parents[1]


def config_of(table, run, **changes) -> TrainConfig:
    defaults = {"table": str(table), "run": str(run), "launcher": "torch", "workers": 2, "model": "plain"}
    return TrainConfig(**{**defaults, **changes})


def states(checks: list[dict]) -> dict[str, str]:
    return {row["check"]: row["state"] for row in checks}


@pytest.mark.cluster
@pytest.mark.parametrize(("launcher", "workers"), [("local", 1), ("horovod", 2)])  # torch: on the cluster below
def test_preflight_only_under_spark_submit(table, tmp_path, launcher, workers):
    done = submit(table, tmp_path / "new" / "run", "--launcher", launcher, "--workers", str(workers))
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and result["preflight"] == "passed", done.stderr
    assert states(result["checks"]) == {**dict.fromkeys(CHECKS, "ok"), "shards": "note"}  # 29 images, batches of 2 x 32
    assert "preflight passed in" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def submit(table, run, *flags: str) -> subprocess.CompletedProcess:
    command = ["spark-submit", "--master", "local[2]", "--driver-memory", "512m", str(ROOT / "jobs" / "train.py")]
    command += ["--table", str(table), "--run", str(run), "--model", "plain", "--preflight-only", *flags]
    return subprocess.run(
        ["bash", "-c", 'source "$0" && exec "$@"', str(ROOT / "cluster" / "env.sh"), *command],
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=150,
    )


@pytest.mark.spark
def test_bad_input_is_a_failed_check(run_job, tmp_path):
    done = run_job("train", "--table", tmp_path, "--run", tmp_path / "run", "--preflight-only")
    assert done.returncode == 2 and "found no manifest.json" in done.stderr
    assert states(json.loads(done.stdout.splitlines()[-1])["checks"]) == {"input": "FAILED"}


@pytest.mark.spark
def test_training_does_not_start_with_too_little_memory(spark, table, tmp_path, caplog):
    with (
        caplog.at_level("INFO", "cxrflow"),
        pytest.raises(UserError, match=r"memory: .* and 2 workers need .* lower --feed-memory"),
    ):
        train(spark, config_of(table, tmp_path / "run", feed_memory="9000g"))
    assert "preflight FAILED" in caplog.text and not (tmp_path / "run").exists()


@pytest.mark.spark
def test_training_does_not_start_if_the_driver_cannot_write(spark, table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run: .*\(on the driver\); give the driver permission"):
        train(spark, config_of(table, tmp_path / "file" / "run"))


@pytest.mark.spark
def test_slots_of_another_job_are_not_free(spark, tmp_path):
    from cxrflow.spark.session import free_slots, wait_for_slots

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(
            lambda: spark.sparkContext.parallelize([str(fifo)], 1).map(lambda path: Path(path).read_text()).collect()
        )
        with fifo.open("w") as opened:  # opens as soon as the task reads
            assert wait_for_slots(spark, 2, seconds=0.5) == 1
            opened.write("done")
        assert job.result() == ["done"]
    assert wait_for_slots(spark, 2) == free_slots(spark) == 2


@pytest.mark.spark
def test_dynamic_allocation_is_refused(spark, table, tmp_path):
    """A cluster's session with dynamic allocation; the check needs no more of it."""
    settings = {"spark.dynamicAllocation.enabled": "true"}
    conf = SimpleNamespace(get=lambda name, default: settings.get(name, default))
    context = SimpleNamespace(getConf=lambda: conf, master="spark://host:7077", _jsc=spark.sparkContext._jsc)
    rows = check_workers(SimpleNamespace(sparkContext=context), config_of(table, tmp_path), read_manifest(str(table)))
    [row] = rows
    assert (row.check, row.state) == ("slots", "FAILED") and "spark.dynamicAllocation.enabled is true" in row.found


APPLICATION = """
import functools, json, sys
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.preflight import barrier_stage
from cxrflow.preflight.check import preflight
from cxrflow.spark.session import open_session

spark = open_session("preflight tests")
barrier_stage.wait_for_slots(spark, 2)
barrier_stage.wait_for_slots = functools.partial(barrier_stage.wait_for_slots, seconds=1)
print("ready", flush=True)
for line in sys.stdin:
    try:
        result = preflight(spark, TrainConfig(**json.loads(line)))
    except UserError as error:
        result = error.result
    print(json.dumps(result), flush=True)
spark.stop()
"""
"""One Spark application for all preflights on the cluster: each line in is a configuration, each line out a result."""


class Machines:
    """A cluster of two addresses of this machine with one task slot each, and an application on it."""

    def __init__(self, application: subprocess.Popen, packages: Path):
        self._application = application
        self.packages = packages
        """A folder that comes first on the Python path of the second machine, 127.0.0.2."""

    def checks(self, table, run, **changes) -> dict[str, dict]:
        """The rows of a preflight, by check."""
        config = config_of(table, run, preflight_only=True, **changes)
        self._application.stdin.write(json.dumps(to_dict(config)) + "\n")
        self._application.stdin.flush()
        result = json.loads(self._application.stdout.readline())
        failed = any(row["state"] == "FAILED" for row in result["checks"])
        assert result["preflight"] == ("failed" if failed else "passed")
        return {row["check"]: row for row in result["checks"]}


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machines")
    packages = folder / "packages"
    packages.mkdir()
    path = os.pathsep.join([str(packages), str(ROOT / "lib")])
    # Each task gets a new Python process, which sees the packages that a test has changed.
    submit_args = (
        "--driver-memory 512m --executor-memory 512m --conf spark.python.worker.reuse=false "
        "--conf spark.driver.host=127.0.0.1 --conf spark.driver.bindAddress=127.0.0.1 pyspark-shell"
    )
    try:
        url = start(folder / "one", "127.0.0.1", *ANY_PORTS, path=str(ROOT / "lib"))
        start(folder / "two", "127.0.0.2", "--master", url, path=path)
        environment = {"PYSPARK_SUBMIT_ARGS": f"--master {url} {submit_args}", "SPARK_LOCAL_IP": "127.0.0.1"}
        with (folder / "log").open("w") as log:
            application = subprocess.Popen(
                [sys.executable, "-c", APPLICATION],
                env={**os.environ, **environment},
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert application.stdout.readline() == "ready\n", (folder / "log").read_text()
        yield Machines(application, packages)
        application.stdin.close()
        application.wait(60)
    finally:
        for name in ("two", "one"):
            script("stop", "--state", folder / name)


def start(state: Path, host: str, *flags: str, path: str) -> str:
    done = script("start", "--state", state, "--host", host, "--memory", "1g", *flags, environment={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.cluster
def test_good_cluster_passes(machines, table, tmp_path):
    checks = machines.checks(table, tmp_path / "run")
    assert {row["state"] for row in checks.values()} <= {"ok", "note"}
    assert "2 tasks reach each other" in checks["network"]["found"]
    assert not (tmp_path / "run").exists()


@pytest.mark.cluster
def test_another_version_on_one_machine(machines, table, tmp_path):
    other = machines.packages / "keras-3.99.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: keras\nVersion: 3.99.0\n")
    try:
        checks = machines.checks(table, tmp_path / "run")
    finally:
        shutil.rmtree(other)
    assert {check for check, row in checks.items() if row["state"] == "FAILED"} == {"versions"}
    assert "on the driver and 127.0.0.1, 3.99.0 on 127.0.0.2" in checks["versions"]["found"]


@pytest.mark.cluster
def test_missing_shards(machines, table, tmp_path):
    copy = shutil.copytree(table, tmp_path / "copy")
    for shard in read_manifest(str(copy)).of_split("train"):
        (copy / shard.path).unlink()
    checks = machines.checks(copy, tmp_path / "run")
    assert {check for check, row in checks.items() if row["state"] == "FAILED"} == {"table", "step"}
    assert "FileNotFoundError" in checks["table"]["found"] and not (tmp_path / "run").exists()


@pytest.mark.cluster
def test_machine_without_cxrflow_does_not_block_the_others(machines, table, tmp_path):
    broken = machines.packages / "cxrflow.py"
    broken.write_text("raise ImportError('not installed here')\n")
    try:
        checks = machines.checks(table, tmp_path / "run")
    finally:
        broken.unlink()
    assert "ImportError: not installed here (on 127.0.0.2)" in checks["versions"]["found"]
    assert checks["versions"]["state"] == "FAILED" and checks["network"]["state"] == "ok"


@pytest.mark.cluster
def test_more_workers_than_slots(machines, table, tmp_path):
    checks = machines.checks(table, tmp_path / "run", workers=3)
    text = "expected at most 2, the task slots of this Spark application, got 3"
    assert checks["slots"]["state"] == "FAILED" and text in checks["slots"]["found"]
    assert checks["step"]["state"] == "not checked"
