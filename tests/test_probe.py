"""Probes of two tasks on two machines, as threads that meet: real sockets and files."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.manifest import read_manifest
from cxrflow.preflight import judge
from cxrflow.preflight.probe import ProbeRequest, TaskContext, probe
from cxrflow.preflight.storage_probe import ProbeFile

pytestmark = pytest.mark.spark  # the table


def probe_two(monkeypatch, table, *runs) -> list[dict]:
    """The facts of both tasks; each may have another run directory."""
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    barrier, texts = threading.Barrier(2, timeout=30), ["", ""]

    def all_gather_of(rank):
        def all_gather(text):
            texts[rank] = text
            barrier.wait()
            gathered = list(texts)
            barrier.wait()
            return gathered

        return all_gather

    def task(rank):
        config = TrainConfig(table=str(table), run=str(runs[rank]), launcher="torch", workers=2, model="plain")
        request = ProbeRequest(
            config=to_dict(config),
            backend="torch",
            token="t",
            generation=read_manifest(str(table)).generation,
            driver=None,
            smoke_step=False,
        )
        return probe(request, TaskContext(rank, ["127.0.0.1", "127.0.0.2"], all_gather_of(rank)))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(task, range(2)))


def test_tasks_reach_each_other_and_see_each_others_files(monkeypatch, table, tmp_path):
    facts = probe_two(monkeypatch, table, tmp_path / "run", tmp_path / "run")
    assert [task["network"]["unreached"] for task in facts] == [[], []]
    assert [task["run"]["unseen"] for task in facts] == [[], []] and "error" not in facts[0]["run"]


def test_each_host_reads_another_shard(monkeypatch, table, tmp_path):
    facts = probe_two(monkeypatch, table, tmp_path / "run", tmp_path / "run")
    shards = {shard.path: shard.rows for shard in read_manifest(str(table)).of_split("train")}
    assert [shards[task["table"]["shard"]] for task in facts] == [task["table"]["rows"] for task in facts]
    assert facts[0]["table"]["shard"] != facts[1]["table"]["shard"]


def test_probes_leave_nothing_behind(monkeypatch, table, tmp_path):
    run = tmp_path / "new" / "run"
    file = ProbeFile(str(run), "t-driver")  # the driver writes before the tasks and removes after them
    file.write()
    probe_two(monkeypatch, table, run, run)
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_run_directory_that_is_not_shared(monkeypatch, table, tmp_path):
    facts = probe_two(monkeypatch, table, tmp_path / "a", tmp_path / "b")
    assert [task["run"]["unseen"] for task in facts] == [[1], [0]]
    assert judge.judge_run(facts).found.startswith("127.0.0.1 does not see the files of 127.0.0.2")
    assert list(tmp_path.iterdir()) == []


def test_run_directory_that_one_machine_cannot_write(monkeypatch, table, tmp_path):
    (tmp_path / "file").write_text("")
    row = judge.judge_run(probe_two(monkeypatch, table, tmp_path / "run", tmp_path / "file" / "run"))
    assert row.state == "FAILED" and "NotADirectoryError" in row.found and "(on 127.0.0.2)" in row.found
