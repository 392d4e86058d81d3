"""The preflight: the judge on facts, and real tasks, sockets, files and executors for each thing that can be wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxrflow.base import host_facts
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.pipeline.train_job import train
from cxrflow.preflight import connectivity, judge
from cxrflow.preflight.probe import Place, ProbeRequest, probe
from cxrflow.preflight.smoke_process import Trial
from cxrflow.preflight.storage_probe import ProbeFile
from cxrflow.preflight.verdict import CHECKS
from test_cluster import ANY_PORTS, script

ROOT = Path(__file__).resolve().parents[1]
MB, GB = 2**20, 2**30


def config_of(table, run, **change) -> TrainConfig:
    return TrainConfig(
        **{"table": str(table), "run": str(run), "launcher": "torch", "workers": 2, "model": "plain", **change}
    )


def states(checks: list[dict]) -> dict[str, str]:
    return {row["check"]: row["state"] for row in checks}


# The judge: facts of two machines that are all right, and one thing changed at a time.


def good_tasks() -> list[dict]:
    versions = {"python": "3.11.7", "java": "17.0.9", "keras": "3.15.1", "torch": "2.13.0"}
    return [
        {
            "rank": rank,
            "host": host,
            "machine": host,
            "gpus": 0,
            "versions": {**versions, "seconds": 0.1},
            "network": {"unreached": [], "driver": None, "loopback_name": False, "card": "eth0", "seconds": 0.1},
            "table": {"rows": 6, "seconds": 0.1},
            "run": {"unseen": [], "seconds": 0.1},
            "memory": {"total": 8 * GB, "available": 6 * GB, "seconds": 0.0},
            "step": {
                "loss": 0.7,
                "backend": "torch",
                "own_seconds": 3.0,
                "seconds": 3.0,
                "batch": 2,
                "peak_bytes": 600 * MB,
                "image_bytes": 10 * MB,
                "weight_bytes": 0,
                "gpus": 0,
            },
        }
        for rank, host in enumerate(["ada", "bob"])
    ]


def not_leading(task: dict) -> dict:
    """What another task of the same machine finds out."""
    return {name: task[name] for name in ("host", "machine", "gpus", "versions", "network")}


def judged(table, tasks, **change) -> dict:
    driver = {"python": "3.11.7", "java": "17.0.9", "keras": "3.15.1", "torch": "2.13.0"}
    rows = judge.judge(
        config_of(table, "/run", **{"batch_size": 4, **change}), read_manifest(str(table)), driver, tasks
    )
    return {row.check: row for row in rows}


def changed(rank: int, check: str, **facts) -> list[dict]:
    tasks = good_tasks()
    tasks[rank][check].update(facts)
    return tasks


def test_facts_that_are_all_right(table):
    assert {row.state for row in judged(table, good_tasks()).values()} == {"ok"}


@pytest.mark.parametrize(
    ("rank", "check", "facts", "words"),
    [
        (1, "versions", {"keras": "3.14.0"}, "keras is 3.15.1 on the driver and ada, 3.14.0 on bob"),
        (1, "versions", {"java": "21.0.1"}, "java is 17.0.9 on the driver and ada, 21.0.1 on bob"),
        (0, "versions", {"torch": "missing"}, "torch is missing on ada"),
        (1, "network", {"unreached": [[0, "timed out"]]}, "bob cannot reach ada (timed out)"),
        (1, "network", {"driver": "10.0.0.1:99: refused"}, "bob cannot reach the driver at 10.0.0.1:99: refused"),
        (0, "network", {"error": "OSError: no such address"}, "OSError: no such address (on ada)"),
        (1, "table", {"error": "FileNotFoundError: /data/x.parquet"}, "FileNotFoundError: /data/x.parquet (on bob)"),
        (1, "run", {"error": "PermissionError: /run"}, "PermissionError: /run (on bob)"),
        (1, "run", {"unseen": ["driver", 0]}, "bob does not see what the driver and ada wrote there"),
        (0, "memory", {"available": 1 * GB}, "ada has 1.0 GB free of 8.0 GB, and 1 worker needs 1.6 GB"),
        (1, "step", {"error": "RuntimeError: it ended with status 1"}, "RuntimeError: it ended with status 1 (on bob)"),
        (1, "step", {"gpus": 2}, "--device auto: expected the same on every machine, found no GPU on ada"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(table, rank, check, facts, words):
    rows = judged(table, changed(rank, check, **facts))
    assert rows[check].state == "FAILED" and words in rows[check].found and rows[check].advice
    assert {row.state for row in rows.values() if row.check != check} == {"ok"}


@pytest.mark.parametrize(
    ("rank", "check", "facts"),
    [(1, "versions", {"python": "3.11.9"}), (1, "versions", {"java": "17.0.15"}), (1, "versions", {"java": None})],
)
def test_differences_that_do_no_harm(table, rank, check, facts):
    assert judged(table, changed(rank, check, **facts))[check].state == "ok"


def test_insecure_package_is_a_note(table):
    tasks = good_tasks()
    for task in tasks:
        task["versions"]["pyarrow"] = "12.0.1"
    row = judged(table, tasks)["versions"]
    assert row.state == "note" and "pyarrow 12.0.1 is older than 14.0.1 (CVE-2023-47248" in row.found
    assert "on ada and bob" in row.found and "install newer packages" in row.advice


def test_a_task_without_cxrflow(table):
    for broken in (0, 1):
        tasks = good_tasks()
        tasks[broken] = {"rank": broken, "host": "eve", "broken": "ModuleNotFoundError: No module named 'cxrflow'"}
        for check in ("table", "run", "memory", "step"):  # both on one machine, for which rank 0 looks
            tasks[1].pop(check, None)
        rows = judged(table, tasks)
        assert rows["versions"].found == "ModuleNotFoundError: No module named 'cxrflow' (on eve)"
        assert ("table" in rows) == (broken == 1) and rows["network"].state == "ok"


def test_a_driver_without_the_workers_packages_is_no_mismatch(table):
    tasks = good_tasks()
    assert judge.judge_versions({"python": "3.11.7", "keras": "missing", "torch": "missing"}, tasks).state == "ok"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"loopback_name": True}, "the own name of bob means 127.x there"),
        ({"card": "ens5"}, "the network card is eth0 on ada, ens5 on bob"),
    ],
)
def test_what_horovod_alone_minds(table, facts, words):
    tasks = changed(1, "network", **facts)
    assert judged(table, tasks)["network"].state == "ok"
    row = judge.judge_network(config_of(table, "/run", launcher="horovod"), tasks)
    assert row.state == "FAILED" and words in row.found and "--launcher torch" in row.advice
    for task in tasks:
        task["machine"] = "ada"
    assert judge.judge_network(config_of(table, "/run", launcher="horovod"), tasks).state == "ok"


@pytest.mark.parametrize(
    ("gpus", "slots", "workers", "of_spark", "state"),
    [
        ((2, 2), (2, 2), 4, 0, "ok"),
        ((1, 1), (2, 2), 4, 0, "FAILED"),  # of four workers two have a GPU
        ((2, 2), (4, 4), 4, 0, "note"),  # all of them if Spark deals them evenly, which it may not
        ((1, 1), (4, 4), 1, 0, "ok"),
        ((2, 2), (4, 4), 4, 1, "ok"),  # Spark gives each task one
    ],
)
def test_more_workers_than_gpus_on_a_machine(table, gpus, slots, workers, of_spark, state):
    tasks = []
    for machine_, host, count, seen in zip(good_tasks(), ("ada", "bob"), slots, gpus, strict=True):
        leader = {**machine_, "gpus": of_spark, "step": {**machine_["step"], "gpus": seen}}
        tasks += [leader, *[not_leading(leader)] * (count - 1)]
    row = judged(table, [{**task, "rank": rank} for rank, task in enumerate(tasks)], workers=workers)["step"]
    assert row.state == state and (state == "ok") == ("task slots and" not in row.found)
    assert state == "ok" or "spark.task.resource.gpu.amount=1" in row.advice


def test_what_lies_on_a_gpu_takes_no_memory_of_the_machine(table):
    tasks = good_tasks()
    for task in tasks:
        task["step"].update(gpus=1, image_bytes=200 * MB)
    assert judged(table, tasks, batch_size=64)["memory"].state == "ok"
    tasks[0]["step"]["gpus"] = tasks[1]["step"]["gpus"] = 0
    assert judged(table, tasks, batch_size=64)["memory"].state == "FAILED"


def test_memory_that_is_enough_if_workers_are_dealt_out_evenly(table):
    """Two slots on each machine, and room for one and a half workers."""
    tasks = [task for leader in good_tasks() for task in (leader, not_leading(leader))]
    tasks = [{**task, "rank": rank} for rank, task in enumerate(tasks)]
    for leader in tasks[::2]:
        leader["memory"]["available"] = int(2.5 * GB)
    row = judged(table, tasks, workers=2)["memory"]
    assert row.state == "note" and "2 workers need 3.2 GB" in row.found
    assert judged(table, tasks, workers=4)["memory"].state == "FAILED"


@pytest.mark.parametrize(
    ("launcher", "device", "amount", "words"),
    [
        ("torch", "auto", "0", None),
        ("torch", "auto", "1", None),
        ("torch", "gpu", "0.5", "gpu.amount is 0.5"),
        ("torch", "auto", "2", "gpu.amount is 2"),
        ("torch", "cpu", "2", None),
        ("horovod", "auto", "0.5", None),
    ],
)
def test_how_many_gpus_spark_gives_a_task_of_torchdistributor(table, launcher, device, amount, words):
    row = judge.judge_gpu_amount(config_of(table, "/run", launcher=launcher, device=device), amount)
    assert (row is None) == (words is None) and (row is None or (row.state == "FAILED" and words in row.found))


def test_shards_that_deserve_a_note(table):
    assert "several read each shard" in judged(table, good_tasks(), workers=9, batch_size=1)["shards"].found
    assert "less than one global batch of 2 x 64" in judged(table, good_tasks(), batch_size=64)["shards"].found


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"slots": 4, "free": 4}, None),
        ({"slots": 1, "free": 1}, "expected at most 1, the task slots of this Spark application, got 2"),
        ({"slots": 4, "free": 1}, "3 of 4 are busy with other work"),
        ({"slots": 4, "free": 4, "dynamic": True}, "with which Spark runs no barrier stage"),
    ],
)
def test_slots(facts, words):
    row = judge.judge_slots(2, **{"local": False, "dynamic": False, "seconds": 0.0, **facts})
    assert row.state == ("FAILED" if words else "ok") and (words or "2 workers") in row.found
    assert not words or "--" in row.advice or "other jobs" in row.advice


@pytest.mark.parametrize(
    ("text", "check", "words"),
    [
        (
            "PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has different version (3, 10) than that in driver 3.11, "
            "PySpark cannot run",
            "versions",
            "python is 3.10 on an executor and 3.11 on the driver",
        ),
        ("Job 3 cancelled part of cancelled job group x", "slots", "did not end within 5 s, or never began"),
        (
            "An error occurred\n\tat org.apache.x\norg.apache.spark.SparkException: executor lost\n\tat y",
            "slots",
            "executor lost",
        ),
    ],
)
def test_a_stage_that_fails(text, check, words):
    row = judge.judge_stage_failure(text, 5)
    assert (row.check, row.state) == (check, "FAILED") and words in row.found


# What tasks find out: real sockets, files and processes.


def test_a_door_that_is_closed_a_stranger_and_silence():
    door = connectivity.EchoServer("127.0.0.1", "open sesame")
    closed = connectivity.EchoServer("127.0.0.1", "open sesame")
    closed.close()
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        found = connectivity.knock_at_all(
            {0: door.address, 1: closed.address, 2: silent.getsockname()}, "open sesame", seconds=0.3
        )
        assert set(found) == {1, 2} and "refused" in found[1] and "no answer within 0.3 s" in found[2]
    assert connectivity.ping(door.address, "abracadabra") == "something else answers there"
    door.close()


@pytest.mark.parametrize(
    ("version", "groups"),
    [
        (2, {"pod": ("memory.max", "memory.current", "inactive_file")}),
        (1, {"memory/pod": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}),
    ],
)
def test_memory_of_a_container(tmp_path, version, groups):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    assert host_facts.memory(tmp_path) == {"total": 16 * GB, "available": 8 * GB}
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/task\n" if version == 2 else "3:cpu:/\n4:memory:/pod/task\n")
    for place, (limit, usage, cache) in groups.items():
        group = tmp_path / "sys/fs/cgroup" / place
        group.mkdir(parents=True)
        (group / limit).write_text(f"{4 * GB}\n")
        (group / usage).write_text(f"{3 * GB}\n")
        (group / "memory.stat").write_text(f"anon 1\n{cache} {GB}\n")
    assert host_facts.memory(tmp_path) == {"total": 4 * GB, "available": 2 * GB}


def probe_two(monkeypatch, table, *runs, launcher="torch") -> list[dict]:
    """The facts of two tasks on two machines, as threads that meet; each may have another run directory."""
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    meeting, said = threading.Barrier(2, timeout=30), [None, None]

    def gather(rank):
        def meet(text):
            said[rank] = text
            meeting.wait()
            everybody = list(said)
            meeting.wait()
            return everybody

        return meet

    def task(rank):
        question = ProbeRequest(
            config=to_dict(config_of(table, runs[rank], launcher=launcher)),
            backend="torch",
            word="w",
            generation=read_manifest(str(table)).generation,
            driver=None,
            trial=False,
        )
        return probe(question, Place(rank, ["127.0.0.1", "127.0.0.2"], gather(rank)))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(task, range(2)))


def test_two_tasks_meet_and_leave_nothing(monkeypatch, table, tmp_path):
    mark = ProbeFile(
        str(tmp_path / "new" / "run"), "w-driver"
    )  # the driver's is there before and after those of the tasks
    mark.write()
    facts = probe_two(monkeypatch, table, *[tmp_path / "new" / "run"] * 2)
    mark.remove()
    assert [task["network"]["unreached"] for task in facts] == [[], []]
    assert [task["run"]["unseen"] for task in facts] == [[], []] and "error" not in facts[0]["run"]
    shards = {shard.path: shard.rows for shard in read_manifest(str(table)).of_split("train")}
    assert [shards[task["table"]["shard"]] for task in facts] == [task["table"]["rows"] for task in facts]
    assert facts[0]["table"]["shard"] != facts[1]["table"]["shard"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_that_is_each_ones_own(monkeypatch, table, tmp_path):
    facts = probe_two(monkeypatch, table, tmp_path / "a", tmp_path / "b")
    assert [task["run"]["unseen"] for task in facts] == [[1], [0]]
    assert judge.judge_run(facts).found.startswith("127.0.0.1 does not see what 127.0.0.2 wrote there")
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_that_one_cannot_write(monkeypatch, table, tmp_path):
    (tmp_path / "file").write_text("")
    row = judge.judge_run(probe_two(monkeypatch, table, tmp_path / "run", tmp_path / "file" / "run"))
    assert row.state == "FAILED" and "NotADirectoryError" in row.found and "(on 127.0.0.2)" in row.found


def test_a_trial_that_fails_ends_with_its_words_and_one_that_hangs_is_ended(table, tmp_path):
    config = to_dict(config_of(table, tmp_path / "run"))
    for change, words in (
        ({"model": "vgg"}, "--model: expected one of"),
        ({"device": "gpu"}, "--device gpu: expected a GPU that this framework can use on .*, found none"),
    ):
        with Trial({**config, **change}, "torch", 1, gpus=[]) as trial, pytest.raises(RuntimeError, match=words):
            trial.result()
    with Trial(config, "torch", 1, seconds=0.01) as trial, pytest.raises(TimeoutError, match="no end within 0.01 s"):
        trial.result()
    assert trial._process.poll() is not None


# In real Spark applications.


@pytest.mark.parametrize("launcher", ["local", "horovod"])  # torch: on the cluster below
def test_preflight_only_of_a_good_case(table, tmp_path, launcher):
    done = submit(
        "local[2]", table, tmp_path / "new" / "run", "--launcher", launcher, workers=1 if launcher == "local" else 2
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and result["preflight"] == "passed", done.stderr
    assert states(result["checks"]) == {**dict.fromkeys(CHECKS, "ok"), "shards": "note"}  # 29 images, batches of 2 x 32
    assert "preflight passed in" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_a_verdict_too(run_job, tmp_path):
    done = run_job("train", "--table", tmp_path, "--run", tmp_path / "run", "--preflight-only")
    assert done.returncode == 2 and "found no manifest.json" in done.stderr
    assert states(json.loads(done.stdout.splitlines()[-1])["checks"]) == {"input": "FAILED"}


def test_training_does_not_begin_where_memory_is_too_little(spark, table, tmp_path, caplog):
    with (
        caplog.at_level("INFO", "cxrflow"),
        pytest.raises(UserError, match="memory: .* and 2 workers need .* lower --feed-memory"),
    ):
        train(spark, config_of(table, tmp_path / "run", feed_memory="9000g"))
    assert "preflight FAILED" in caplog.text and not (tmp_path / "run").exists()


def test_training_does_not_begin_where_the_driver_cannot_write(spark, table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run: .*\(on the driver\); the driver must be allowed"):
        train(spark, config_of(table, tmp_path / "file" / "run"))


def test_slots_that_another_job_takes_are_not_free(spark, tmp_path):
    from cxrflow.spark.session import free_slots, wait_for_slots

    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(
            lambda: spark.sparkContext.parallelize([fifo], 1).map(lambda path: open(path).read()).collect()
        )
        with open(fifo, "w") as opened:  # as soon as the task is there to read
            assert wait_for_slots(spark, 2, seconds=0.5) == 1
            opened.write("done")
        assert job.result() == ["done"]
    assert wait_for_slots(spark, 2) == free_slots(spark) == 2


def submit(
    master: str, table, run, *flags: str, workers: int = 2, conf: dict | None = None
) -> subprocess.CompletedProcess:
    settings = [part for key, value in (conf or {}).items() for part in ("--conf", f"{key}={value}")]
    command = [
        "spark-submit",
        "--master",
        master,
        "--driver-memory",
        "512m",
        "--executor-memory",
        "512m",
        *settings,
        str(ROOT / "jobs" / "train.py"),
        "--table",
        str(table),
        "--run",
        str(run),
        "--workers",
        str(workers),
        "--model",
        "plain",
        "--preflight-only",
        *(flags or ("--launcher", "torch")),
    ]
    return subprocess.run(
        ["bash", "-c", 'source "$0" && exec "$@"', str(ROOT / "cluster" / "env.sh"), *command],
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=150,
    )


@dataclasses.dataclass
class Machines:
    """A cluster of two addresses of this machine, one task slot each."""

    url: str
    packages: Path
    """A folder that comes first on the path of Python on the second, 127.0.0.2."""

    def checks(self, table, run, **options) -> tuple[int, dict[str, dict]]:
        done = submit(self.url, table, run, **options)
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["preflight"] == ("failed" if done.returncode else "passed")
        return done.returncode, {row["check"]: row for row in result["checks"]}


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machines")
    packages = folder / "packages"
    packages.mkdir()
    path = os.pathsep.join([str(packages), str(ROOT / "lib")])
    try:
        url = start(folder / "one", "127.0.0.1", *ANY_PORTS, path=str(ROOT / "lib"))
        start(folder / "two", "127.0.0.2", "--master", url, path=path)
        yield Machines(url, packages)
    finally:
        for name in ("two", "one"):
            script("stop", "--state", folder / name)


def start(state: Path, host: str, *flags: str, path: str) -> str:
    done = subprocess.run(
        [ROOT / "cluster" / "start.sh", "--state", state, "--host", host, "--memory", "1g", *flags],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_cluster_of_two_machines(machines, table, tmp_path):
    status, checks = machines.checks(table, tmp_path / "run")
    assert status == 0 and {row["state"] for row in checks.values()} <= {"ok", "note"}
    assert "2 tasks reach each other" in checks["network"]["found"]
    assert not (tmp_path / "run").exists()


def test_another_version_on_one_machine_and_shards_that_are_gone_are_named(machines, table, tmp_path):
    copy = shutil.copytree(table, tmp_path / "copy")
    for shard in read_manifest(str(copy)).of_split("train"):
        (copy / shard.path).unlink()
    other = machines.packages / "keras-3.99.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: keras\nVersion: 3.99.0\n")
    try:
        status, checks = machines.checks(copy, tmp_path / "run")
    finally:
        shutil.rmtree(other)
    assert status == 2 and {check for check, row in checks.items() if row["state"] == "FAILED"} == {
        "versions",
        "table",
        "step",
    }
    assert "FileNotFoundError" in checks["table"]["found"] and not (tmp_path / "run").exists()
    assert "on the driver and 127.0.0.1, 3.99.0 on 127.0.0.2" in checks["versions"]["found"]


def test_a_machine_without_cxrflow_is_named_and_the_others_do_not_hang(machines, table, tmp_path):
    broken = machines.packages / "cxrflow.py"
    broken.write_text("raise ImportError('not installed here')\n")
    try:
        status, checks = machines.checks(table, tmp_path / "run")
    finally:
        broken.unlink()
    assert status == 2 and "ImportError: not installed here (on 127.0.0.2)" in checks["versions"]["found"]
    assert checks["network"]["state"] == "ok"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {
                "conf": {
                    "spark.dynamicAllocation.enabled": "true",
                    "spark.dynamicAllocation.shuffleTracking.enabled": "true",
                }
            },
            "spark.dynamicAllocation.enabled is true",
        ),
        ({"workers": 3}, "expected at most 2, the task slots of this Spark application, got 3"),
    ],
)
def test_slots_of_a_cluster(machines, table, tmp_path, options, words):
    status, checks = machines.checks(table, tmp_path / "run", **options)
    assert status == 2 and checks["slots"]["state"] == "FAILED" and words in checks["slots"]["found"]
    assert checks["step"]["state"] == "not checked"
