"""Evaluations are whole, separate, and never changed."""

import subprocess
import sys

import pytest

from cxrflow.base import lease, storage
from cxrflow.base.errors import UserError
from cxrflow.base.evaluations import Evaluation, find_evaluation, write_evaluation
from cxrflow.base.manifest import RunDirectory


def write(run, table="/data/my table", split="test", scores=b"scores", **figures):
    return write_evaluation(run, {"table": table, "split": split, **figures}, scores)["evaluation"]


@pytest.mark.parametrize("url", ["{}/run", "memory://{}/run"])
def test_no_evaluation_replaces_another_and_the_newest_is_shown(tmp_path, url):
    run = url.format(tmp_path)
    assert find_evaluation(run) is None
    names = [write(run, n=1), write(run, "/other/hospital", n=2), write(run, "/elsewhere/my table", n=3)]
    assert names == ["my_table-test-1", "hospital-test-1", "my_table-test-2"]
    assert find_evaluation(run)[1]["n"] == 3
    assert find_evaluation(run, "hospital-test-1")[1]["table"] == "/other/hospital"
    assert storage.entries(Evaluation(run, names[0]).url) == ["metrics.json", "scores.parquet"]
    with pytest.raises(UserError, match="--evaluation: expected one of hospital-test-1, .*; got 'none'"):
        find_evaluation(run, "none")
    RunDirectory(run).clear_evaluations()
    assert find_evaluation(run) is None and not storage.exists(RunDirectory(run).evaluations)


def test_one_without_metrics_is_none_and_is_removed_unless_a_job_writes_it(tmp_path):
    run = str(tmp_path)
    killed, running = Evaluation(run, "table-test-1"), Evaluation(run, "hospital-test-1")
    for evaluation in (killed, running):
        storage.write_bytes(evaluation.scores, b"half an evaluation")
    with lease.hold(running.url, "--run"):
        assert find_evaluation(run) is None
        assert write(run, "/data/hospital") == "hospital-test-2"
        assert not storage.exists(killed.url) and storage.exists(running.scores)


def test_the_lease_of_a_job_that_was_killed_after_its_commit_is_removed(tmp_path):
    first = Evaluation(str(tmp_path), write(str(tmp_path), n=1))
    script = (
        "import os, sys, cxrflow.base.lease as lease\n"
        "held = lease.hold(sys.argv[1], '--run'); held.__enter__()\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, first.url], check=False).returncode == -9
    assert lease.NAME in storage.entries(first.url)
    write(str(tmp_path), n=2)
    assert storage.entries(first.url) == ["metrics.json", "scores.parquet"]
    assert find_evaluation(str(tmp_path), first.name)[1]["n"] == 1


def test_simultaneous_evaluations_get_folders_of_their_own(tmp_path):
    script = (
        "import sys; from cxrflow.base.evaluations import write_evaluation\n"
        "write_evaluation(sys.argv[1], {'table': '/t/table', 'split': 'val', 'n': sys.argv[2]}, sys.argv[2].encode())"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)]) for n in range(4)]
    assert [job.wait() for job in jobs] == [0] * 4
    found = [find_evaluation(str(tmp_path), f"table-val-{number}") for number in range(1, 5)]
    assert sorted(figures["n"] for _, figures in found) == ["0", "1", "2", "3"]
    for evaluation, figures in found:
        assert storage.read_bytes(evaluation.scores) == figures["n"].encode()
