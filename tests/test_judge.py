"""The preflight's judge: the facts of two good machines with one change at a time."""

from __future__ import annotations

import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.manifest import Manifest, Shard
from cxrflow.preflight import judge

MB, GB = 2**20, 2**30
VERSIONS = {"python": "3.11.7", "java": "17.0.9", "keras": "3.15.1", "torch": "2.13.0"}
SHARD_ROWS = {"train": [6, 6, 6, 6, 5], "val": [6, 4], "test": [6, 3]}
MANIFEST = Manifest(
    generation=1,
    height=48,
    width=40,
    labels=["NORMAL", "OPACITY"],
    shard_rows=6,
    shards=[
        Shard(path=f"samples/split={split}/{number}.parquet", split=split, rows=rows, labels={}, checksum="")
        for split, counts in SHARD_ROWS.items()
        for number, rows in enumerate(counts)
    ],
    quarantined={},
    quarantine=[],
    config={},
    columns={},
)


def config_of(**changes) -> TrainConfig:
    defaults = {"table": "/table", "run": "/run", "launcher": "torch", "workers": 2, "model": "plain", "batch_size": 4}
    return TrainConfig(**{**defaults, **changes})


def good_tasks() -> list[dict]:
    return [
        {
            "rank": rank,
            "host": host,
            "machine": host,
            "gpus": 0,
            "versions": {**VERSIONS, "seconds": 0.1},
            "network": {"unreached": [], "driver": None, "loopback_name": False, "interface": "eth0", "seconds": 0.1},
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


def follower(leader: dict) -> dict:
    """The facts of another task on the same host."""
    return {name: leader[name] for name in ("host", "machine", "gpus", "versions", "network")}


def with_ranks(tasks: list[dict]) -> list[dict]:
    return [{**task, "rank": rank} for rank, task in enumerate(tasks)]


def rows_of(tasks, **changes) -> dict:
    rows = judge.judge(config_of(**changes), MANIFEST, VERSIONS, tasks)
    return {row.check: row for row in rows}


def changed(rank: int, check: str, **facts) -> list[dict]:
    tasks = good_tasks()
    tasks[rank][check].update(facts)
    return tasks


def test_good_facts_pass():
    assert {row.state for row in rows_of(good_tasks()).values()} == {"ok"}


@pytest.mark.parametrize(
    ("rank", "check", "facts", "text"),
    [
        (1, "versions", {"keras": "3.14.0"}, "keras is 3.15.1 on the driver and ada, 3.14.0 on bob"),
        (1, "versions", {"java": "21.0.1"}, "java is 17.0.9 on the driver and ada, 21.0.1 on bob"),
        (0, "versions", {"torch": "missing"}, "torch is missing on ada"),
        (1, "network", {"unreached": [[0, "timed out"]]}, "bob cannot reach ada (timed out)"),
        (1, "network", {"driver": "10.0.0.1:99: refused"}, "bob cannot reach the driver at 10.0.0.1:99: refused"),
        (0, "network", {"error": "OSError: no such address"}, "OSError: no such address (on ada)"),
        (1, "table", {"error": "FileNotFoundError: /data/x.parquet"}, "FileNotFoundError: /data/x.parquet (on bob)"),
        (1, "run", {"error": "PermissionError: /run"}, "PermissionError: /run (on bob)"),
        (1, "run", {"unseen": ["driver", 0]}, "bob does not see the files of the driver and ada"),
        (0, "memory", {"available": 1 * GB}, "ada has 1.0 GB of 8.0 GB available, and 1 worker needs 1.6 GB"),
        (1, "step", {"error": "RuntimeError: ended with status 1"}, "RuntimeError: ended with status 1 (on bob)"),
        (1, "step", {"gpus": 2}, "--device auto: expected a GPU on every machine or on none, found none on ada"),
    ],
)
def test_failure_names_problem_and_host(rank, check, facts, text):
    rows = rows_of(changed(rank, check, **facts))
    assert rows[check].state == "FAILED" and text in rows[check].found and rows[check].advice
    assert {row.state for row in rows.values() if row.check != check} == {"ok"}


@pytest.mark.parametrize("facts", [{"python": "3.11.9"}, {"java": "17.0.15"}, {"java": None}])
def test_harmless_version_differences_pass(facts):
    assert rows_of(changed(1, "versions", **facts))["versions"].state == "ok"


def test_insecure_package_is_a_note():
    tasks = good_tasks()
    for task in tasks:
        task["versions"]["pyarrow"] = "12.0.1"
    row = rows_of(tasks)["versions"]
    assert row.state == "note" and "pyarrow 12.0.1 is older than 14.0.1 (CVE-2023-47248" in row.found
    assert "on ada and bob" in row.found and "install newer packages" in row.advice


@pytest.mark.parametrize("broken", [0, 1])
def test_task_without_cxrflow(broken):
    tasks = good_tasks()
    tasks[broken] = {"rank": broken, "host": "eve", "broken": "ModuleNotFoundError: No module named 'cxrflow'"}
    for check in ("table", "run", "memory", "step"):  # both tasks are on one host, whose leader is rank 0
        tasks[1].pop(check, None)
    rows = rows_of(tasks)
    assert rows["versions"].found == "ModuleNotFoundError: No module named 'cxrflow' (on eve)"
    assert ("table" in rows) == (broken == 1) and rows["network"].state == "ok"


def test_driver_may_lack_the_workers_packages():
    driver = {"python": "3.11.7", "keras": "missing", "torch": "missing"}
    assert judge.judge_versions(driver, good_tasks()).state == "ok"


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"loopback_name": True}, "the hostname of bob resolves to 127.x there"),
        ({"interface": "ens5"}, "the network interface is eth0 on ada, ens5 on bob"),
    ],
)
def test_network_of_horovod(facts, text):
    tasks = changed(1, "network", **facts)
    assert rows_of(tasks)["network"].state == "ok"  # of TorchDistributor
    row = judge.judge_network(config_of(launcher="horovod"), tasks)
    assert row.state == "FAILED" and text in row.found and "--launcher torch" in row.advice
    for task in tasks:
        task["machine"] = "ada"
    assert judge.judge_network(config_of(launcher="horovod"), tasks).state == "ok"


@pytest.mark.parametrize(
    ("gpus", "slots", "workers", "assigned", "state"),
    [
        ((2, 2), (2, 2), 4, 0, "ok"),
        ((1, 1), (2, 2), 4, 0, "FAILED"),  # only two of four workers have a GPU
        ((2, 2), (4, 4), 4, 0, "note"),  # each has one only if Spark spreads them evenly
        ((1, 1), (4, 4), 1, 0, "ok"),
        ((2, 2), (4, 4), 4, 1, "ok"),  # Spark assigns one to each task
    ],
)
def test_more_workers_than_gpus(gpus, slots, workers, assigned, state):
    tasks = []
    for task, count, visible in zip(good_tasks(), slots, gpus, strict=True):
        leader = {**task, "gpus": assigned, "step": {**task["step"], "gpus": visible}}
        tasks += [leader, *[follower(leader)] * (count - 1)]
    row = rows_of(with_ranks(tasks), workers=workers)["step"]
    assert row.state == state and (state == "ok") == ("task slots and" not in row.found)
    assert state == "ok" or "spark.task.resource.gpu.amount=1" in row.advice


@pytest.mark.parametrize(("gpus", "state"), [(1, "ok"), (0, "FAILED")])
def test_activations_on_a_gpu_use_no_machine_memory(gpus, state):
    tasks = good_tasks()
    for task in tasks:
        task["step"].update(gpus=gpus, image_bytes=200 * MB)
    assert rows_of(tasks, batch_size=64)["memory"].state == state


@pytest.mark.parametrize(("workers", "state"), [(2, "note"), (4, "FAILED")])
def test_memory_that_suffices_if_workers_are_spread_evenly(workers, state):
    """Two slots on each machine, and memory for one and a half workers."""
    tasks = with_ranks([task for leader in good_tasks() for task in (leader, follower(leader))])
    for leader in tasks[::2]:
        leader["memory"]["available"] = int(2.5 * GB)
    row = rows_of(tasks, workers=workers)["memory"]
    assert row.state == state and "2 workers need 3.2 GB" in row.found


@pytest.mark.parametrize(
    ("launcher", "device", "amount", "text"),
    [
        ("torch", "auto", "0", None),
        ("torch", "auto", "1", None),
        ("torch", "gpu", "0.5", "gpu.amount=1, got 0.5"),
        ("torch", "auto", "2", "gpu.amount=1, got 2"),
        ("torch", "cpu", "2", None),
        ("horovod", "auto", "0.5", None),
    ],
)
def test_gpus_of_a_torchdistributor_task(launcher, device, amount, text):
    row = judge.judge_gpu_amount(config_of(launcher=launcher, device=device), amount)
    assert (row is None) == (text is None) and (row is None or (row.state == "FAILED" and text in row.found))


@pytest.mark.parametrize(
    ("workers", "batch_size", "text"),
    [(9, 1, "several read each shard"), (2, 64, "less than one global batch of 2 x 64")],
)
def test_few_shards_or_images_are_a_note(workers, batch_size, text):
    row = rows_of(good_tasks(), workers=workers, batch_size=batch_size)["shards"]
    assert row.state == "note" and text in row.found


@pytest.mark.parametrize(
    ("facts", "text", "advice"),
    [
        ({"slots": 4, "free": 4}, None, ""),
        ({"slots": 1, "free": 1}, "expected at most 1, the task slots of this Spark application, got 2", "--"),
        ({"slots": 4, "free": 1}, "3 of 4 run other jobs", "other jobs"),
        ({"slots": 4, "free": 4, "dynamic": True}, "spark.dynamicAllocation.enabled is true", "--"),
    ],
)
def test_slots(facts, text, advice):
    row = judge.judge_slots(2, **{"local": False, "dynamic": False, "seconds": 0.0, **facts})
    assert row.state == ("FAILED" if text else "ok") and (text or "2 workers") in row.found and advice in row.advice


@pytest.mark.parametrize(
    ("text", "check", "found"),
    [
        (
            "PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has different version (3, 10) than that "
            "in driver 3.11, PySpark cannot run",
            "versions",
            "python is 3.10 on an executor and 3.11 on the driver",
        ),
        ("Job 3 cancelled part of cancelled job group x", "slots", "did not start, or did not end within 5 s"),
        (
            "An error occurred\n\tat org.apache.x\norg.apache.spark.SparkException: executor lost\n\tat y",
            "slots",
            "executor lost",
        ),
    ],
)
def test_stage_that_fails(text, check, found):
    row = judge.judge_stage_failure(text, 5)
    assert (row.check, row.state) == (check, "FAILED") and found in row.found
