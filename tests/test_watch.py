"""The driver's recorder with its real sinks: files, S3, TensorBoard as its own loader reads it, MLflow's file store."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.directory_watcher import DirectoryDeletedError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrflow.base import storage
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.watch import append_file, event_queue, recorder
from cxrflow.watch.append_file import GrowingFile
from cxrflow.watch.jsonl_sink import JsonlSink
from cxrflow.watch.recorder import Recorder, check_watch
from cxrflow.watch.terminal import duration, line_of
from s3_server import S3Server

pytestmark = pytest.mark.spark

IMAGES = 1000


def start(images=0):
    return {
        "event": "start",
        "epoch": images // IMAGES + 1,
        "epochs": 3,
        "images": images,
        "images_per_epoch": IMAGES,
        "steps_per_epoch": 100,
        "workers": 2,
        "batch_size": 5,
        "backend": "torch",
    }


def step(images, loss=0.5):
    return {
        "event": "step",
        "epoch": images // IMAGES + 1,
        "epochs": 3,
        "step": images % IMAGES // 10,
        "steps": 100,
        "images": images,
        "loss": loss,
        "learning_rate": 0.1,
        "images_per_second": 20.0,
        "feed_share": 0.25,
        "step_share": 0.5,
        "all_reduce_share": 0.125,
        "seconds_left": 8000.0,
    }


def epoch(number, val_loss=0.25):
    return {
        "event": "epoch",
        "epoch": number,
        "epochs": 3,
        "images": number * IMAGES,
        "loss": 0.5,
        "val_loss": val_loss,
        "val_auc": 0.75,
        "val_accuracy": 0.625,
        "learning_rate": 0.1,
        "images_per_second": 20.0,
        "seconds": 50.0,
        "seconds_left": 100.0,
    }


def checkpoint(images):
    return {"event": "checkpoint", "epoch": images // IMAGES, "images": images}


def config(run, **changes):
    return TrainConfig(table="/table", run=str(run), **changes)


def recorded(settings, *events, resumes=False):
    """Record the events of a training that finishes."""
    with Recorder(settings, resumes) as watch:
        for event in events:
            watch.record(event)


def lines(run):
    return [json.loads(line) for line in storage.read_bytes(storage.join(str(run), "events.jsonl")).splitlines()]


def kinds(run):
    return [(line["event"], line.get("images")) for line in lines(run)]


def curve(run, name):
    """The points (step, value) of a curve as TensorBoard reads them."""
    loaded = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    return [(point.step, point.value) for point in loaded.Scalars(name)]


def test_every_event_is_a_line(tmp_path):
    before = time.time()
    recorded(config(tmp_path), start(), step(500), step(900, float("nan")), checkpoint(IMAGES), epoch(1))
    assert [{name: value for name, value in line.items() if name != "time"} for line in lines(tmp_path)] == [
        start(),
        step(500),
        {**step(900), "loss": None},
        checkpoint(IMAGES),
        epoch(1),
        {"event": "end", "status": "finished"},
    ]
    times = [line["time"] for line in lines(tmp_path)]
    assert before <= times[0] and times == sorted(times) and times[-1] <= time.time()


def test_tensorboard_reads_the_curves(tmp_path):
    recorded(config(tmp_path), start(), step(500, 0.75), step(900, 0.5), checkpoint(IMAGES), epoch(1))
    assert curve(tmp_path, "train/loss") == [(500, 0.75), (900, 0.5)]
    assert curve(tmp_path, "time/all_reduce_share") == [(500, 0.125), (900, 0.125)]
    assert curve(tmp_path, "val/auc") == [(1000, 0.75)]


def test_resumed_run_appends_and_tensorboard_drops_repeated_steps(tmp_path):
    recorded(config(tmp_path), start(), step(IMAGES, 1.0), checkpoint(IMAGES), epoch(1), step(1800, 2.0))
    recorded(config(tmp_path, workers=4), start(IMAGES), step(1700, 3.0), epoch(2), resumes=True)
    assert kinds(tmp_path) == [
        ("start", 0),
        ("step", 1000),
        ("checkpoint", 1000),
        ("epoch", 1000),
        ("step", 1800),
        ("end", None),
        ("start", 1000),
        ("step", 1700),
        ("epoch", 2000),
        ("end", None),
    ]
    assert curve(tmp_path, "train/loss") == [(1000, 1.0), (1700, 3.0)]
    assert [step for step, _ in curve(tmp_path, "val/auc")] == [1000, 2000]


def test_restart_within_one_job_drops_repeated_steps(tmp_path):
    recorded(config(tmp_path), start(), step(400, 1.0), checkpoint(500), step(800, 2.0), start(500), step(700, 3.0))
    assert curve(tmp_path, "train/loss") == [(400, 1.0), (700, 3.0)]


def test_tensorboard_files_can_be_turned_off(tmp_path):
    recorded(config(tmp_path, tensorboard=False), start())
    assert os.listdir(tmp_path) == ["events.jsonl"]


def test_new_run_replaces_files_at_its_first_checkpoint(tmp_path):
    recorded(config(tmp_path), start(), step(500, 1.0), checkpoint(IMAGES))
    (tmp_path / "config.json").write_text("{}")
    before = kinds(tmp_path)
    with pytest.raises(OSError, match="disk"), Recorder(config(tmp_path, if_exists="overwrite"), False) as watch:
        watch.record(start())
        watch.record(step(300, 2.0))
        raise OSError("disk")
    assert kinds(tmp_path) == before and curve(tmp_path, "train/loss") == [(500, 1.0)]
    recorded(config(tmp_path, if_exists="overwrite"), start(), step(300, 3.0), checkpoint(400), step(600, 4.0))
    assert kinds(tmp_path) == [("start", 0), ("step", 300), ("checkpoint", 400), ("step", 600), ("end", None)]
    assert curve(tmp_path, "train/loss") == [(300, 3.0), (600, 4.0)]


def test_run_that_died_before_its_first_checkpoint_is_replaced(tmp_path):
    recorded(config(tmp_path), start(), step(500, 1.0))
    recorded(config(tmp_path), start(), step(300, 2.0))
    assert kinds(tmp_path) == [("start", 0), ("step", 300), ("end", None)]
    assert curve(tmp_path, "train/loss") == [(300, 2.0)]


RECORD = """
import sys
from cxrflow.base.config import TrainConfig
from cxrflow.watch.recorder import Recorder
with Recorder(TrainConfig(table="/t", run=sys.argv[1]), resumes=False) as watch:
    for line in sys.stdin:
        watch.record(eval(line))
"""


def test_killed_driver_loses_no_event_and_resumes(tmp_path):
    with subprocess.Popen([sys.executable, "-c", RECORD, str(tmp_path)], stdin=subprocess.PIPE, text=True) as driver:
        for event in (start(), step(400, 1.0), checkpoint(500)):
            driver.stdin.write(f"{event!r}\n")
        driver.stdin.flush()
        wait_for(lambda: len(kinds(tmp_path)) == 3 and curve(tmp_path, "train/loss"))
        driver.send_signal(signal.SIGKILL)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "step", "ti')  # as after a power failure
    recorded(config(tmp_path), start(500), step(600, 2.0), resumes=True)
    assert kinds(tmp_path) == [
        ("start", 0),
        ("step", 400),
        ("checkpoint", 500),
        ("start", 500),
        ("step", 600),
        ("end", None),
    ]
    assert curve(tmp_path, "train/loss") == [(400, 1.0), (600, 2.0)]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, KeyError, DirectoryDeletedError):  # not there yet
            pass
        time.sleep(0.02)
    raise AssertionError(f"the condition did not become true within {seconds} s")


def test_the_driver_loads_no_framework(tmp_path):
    code = RECORD + "print([name for name in ('tensorflow', 'torch', 'keras') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], input=f"{start()}\n{step(500)}\n", text=True, capture_output=True
    )
    assert done.stdout == "[]\n" and curve(tmp_path, "train/loss") == [(500, 0.5)]


@pytest.fixture(scope="module")
def bucket():
    server = S3Server().start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        fs, _ = storage.filesystem("s3://watch")
        fs.clear_instance_cache()
        fs, _ = storage.filesystem("s3://watch")
        fs.mkdir("watch")
        yield server
        fs.clear_instance_cache()
    server.stop()


def test_files_on_object_stores_are_rewritten_seldom(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(append_file, "REWRITE_SECONDS", 0.5)
    run = "s3://watch/run"
    with Recorder(config(run), resumes=False) as watch:
        watch.record(start())
        for images in range(10, 210, 10):
            watch.record(step(images))
        wait_for(lambda: len(kinds(run)) == 21)  # without further events
    recorded(config(run), start(200), step(210), resumes=True)
    assert kinds(run) == [
        ("start", 0),
        *(("step", images) for images in range(10, 210, 10)),
        ("end", None),
        ("start", 200),
        ("step", 210),
        ("end", None),
    ]
    writes = [path for method, path in bucket.requests if method == "PUT" and path.endswith("events.jsonl")]
    assert len(writes) <= 4
    (tmp_path / "tensorboard").mkdir()
    for url in storage.files(storage.join(run, "tensorboard"), ""):
        storage.download(url, str(tmp_path / "tensorboard" / url.rpartition("/")[2]))
    assert curve(tmp_path, "train/loss") == [(images, 0.5) for images in range(10, 220, 10)]


def test_larger_files_are_rewritten_less_often(bucket, monkeypatch):
    storage.write_bytes("s3://watch/large", bytes(5_000_000))
    assert GrowingFile("s3://watch/large").seconds == 25
    assert GrowingFile("s3://watch/none").seconds == 10


def test_files_on_mounts_without_append_are_rewritten(tmp_path):
    path = tmp_path / "events"
    path.symlink_to("events")  # a link to itself can be replaced but not opened
    file = GrowingFile(str(path))
    assert file.seconds == 0
    file.write(b"one ")
    assert file.seconds == 10
    file.write(b"two")
    assert path.read_bytes() == b"one two"


def test_failing_sink_warns_once_and_catches_up(tmp_path, caplog):
    blocked = tmp_path / "folder"
    blocked.write_text("a file")
    sink = JsonlSink(str(blocked / "events.jsonl"))
    queue = event_queue.EventQueue("events.jsonl", lambda: sink)
    for images in (10, 20):
        queue.record(step(images))
    wait_for(lambda: caplog.records)
    queue.record(step(30))
    blocked.unlink()
    queue.close(10)
    assert [json.loads(line)["images"] for line in (blocked / "events.jsonl").read_text().splitlines()] == [10, 20, 30]
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "events.jsonl: cannot be written, training continues"
    ]


def test_unwritable_run_directory_does_not_stop_training(tmp_path, caplog, capsys):
    (tmp_path / "file").write_text("")
    recorded(config(tmp_path / "file" / "run"), start(), epoch(1), {"event": "no such", "thing": object()})
    assert sorted(
        record.message.partition(":")[0] for record in caplog.records if record.levelno == logging.WARNING
    ) == ["TensorBoard", "events.jsonl"]
    assert "epoch 1/3: loss 0.5000" in capsys.readouterr().err


def test_hanging_sink_does_not_block(tmp_path, monkeypatch, caplog):
    """Opening a named pipe that nobody reads blocks."""
    monkeypatch.setattr(recorder, "CLOSE_SECONDS", 0.3)
    with Recorder(config(tmp_path, tensorboard=False), resumes=False) as watch:
        watch.record(start())
        wait_for(lambda: kinds(tmp_path))
        (tmp_path / "events.jsonl").unlink()
        os.mkfifo(tmp_path / "events.jsonl")
        began = time.monotonic()
        for images in range(1000):
            watch.record(step(images))
    assert time.monotonic() - began < 5
    assert "events.jsonl: did not finish within 0 s" in caplog.text
    os.close(os.open(tmp_path / "events.jsonl", os.O_RDONLY | os.O_NONBLOCK))  # lets the thread end


def test_sink_modules_are_imported_before_the_threads_start(tmp_path):
    """Two threads that import packages at the same time may deadlock."""
    code = """
import sys
from cxrflow.base.config import TrainConfig
from cxrflow.watch.recorder import Recorder
Recorder(TrainConfig(table="/t", run=sys.argv[1]), resumes=False)._load_packages()
print(sorted(name for name in sys.modules if name.startswith("cxrflow.watch.") and name.endswith("_sink")))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], text=True, capture_output=True, check=True)
    assert done.stdout == "['cxrflow.watch.jsonl_sink', 'cxrflow.watch.tensorboard_sink']\n"


def test_terminal_lines():
    assert line_of(start()) == "2 workers train with torch: 3 epochs of 1000 images, 100 steps each"
    assert line_of(start(1500)).endswith("100 steps each; resumes in epoch 2")
    assert line_of(step(1500)) == "epoch 2/3, step 50/100: loss 0.5000, 20 images/s (12% all-reduce), 2 h 13 min left"
    assert line_of({**step(1990), "step": 100}) is None  # the line of the epoch follows
    assert line_of(epoch(1)) == (
        "epoch 1/3: loss 0.5000, val loss 0.2500, val AUC 0.7500, val accuracy 0.625, 20 images/s, 50 s, 2 min left"
    )
    assert not line_of({**epoch(3), "seconds_left": 0.0}).endswith("left") and line_of(checkpoint(0)) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5910, "98 min"), (6000, "1 h 40 min"), (200_000, "55 h 33 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def mlflow_store(tmp_path, monkeypatch):
    """An MLflow client with a file store, which mlflow-skinny supports."""
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    yield MlflowClient()


def runs(client, experiment="xrays"):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []


def finished_run(folder):
    """What rank 0 leaves in the run directory."""
    (folder / "model.keras").write_bytes(b"a model")
    (folder / "config.json").write_text("{}")
    (folder / "history.json").write_text(json.dumps({"saved": {**epoch(1), "threshold": 0.5}, "epochs": []}))


def test_mlflow_gets_metrics_parameters_and_files(tmp_path, mlflow_store):
    run = tmp_path / "run"
    with Recorder(config(run, mlflow="xrays", learning_rate=0.125), resumes=False) as watch:
        for event in (start(), step(500, 0.75), step(900, float("nan")), epoch(1), checkpoint(IMAGES)):
            watch.record(event)
        finished_run(run)
    [found] = runs(mlflow_store)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert json.loads((run / "mlflow.json").read_text()) == {"run_id": found.info.run_id}
    assert found.data.params["learning_rate"] == "0.125" and found.data.params["table"] == "/table"
    assert found.data.tags["cxrflow.workers"] == "2" and found.data.tags["cxrflow.backend"] == "torch"
    assert found.data.metrics["saved/val_auc"] == 0.75 and found.data.metrics["val/auc"] == 0.75
    losses = mlflow_store.get_metric_history(found.info.run_id, "train/loss")
    assert [point.step for point in losses] == [500, 900]
    np.testing.assert_equal([point.value for point in losses], [0.75, float("nan")])
    assert {file.path for file in mlflow_store.list_artifacts(found.info.run_id)} == {
        "model.keras",
        "config.json",
        "history.json",
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("the loss is nan"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_mlflow_run_is_closed_with_its_status_and_resumed(tmp_path, mlflow_store, error, status):
    run = tmp_path / "run"
    with pytest.raises(type(error)), Recorder(config(run, mlflow="xrays"), resumes=False) as watch:
        watch.record(start())
        watch.record(checkpoint(500))
        raise error
    [stopped] = runs(mlflow_store)
    assert stopped.info.status == status and lines(run)[-1]["status"] == status.lower()
    assert lines(run)[-1].get("error") == ("RuntimeError: the loss is nan" if status == "FAILED" else None)
    finished_run(run)
    recorded(config(run, mlflow="xrays", workers=4), {**start(500), "workers": 4}, step(700), resumes=True)
    [found] = runs(mlflow_store)
    assert (found.info.run_id, found.info.status) == (stopped.info.run_id, "FINISHED")
    assert (found.data.params["workers"], found.data.tags["cxrflow.workers"]) == ("1", "4")


def test_new_run_is_a_new_mlflow_run(tmp_path, mlflow_store):
    run = tmp_path / "run"
    recorded(config(run, mlflow="xrays"), start(), checkpoint(500))
    first = json.loads((run / "mlflow.json").read_text())
    finished_run(run)
    with pytest.raises(OSError), Recorder(config(run, mlflow="xrays", if_exists="overwrite"), resumes=False) as watch:
        watch.record(start())
        raise OSError("before its first checkpoint")
    assert json.loads((run / "mlflow.json").read_text()) == first
    recorded(config(run, mlflow="xrays", if_exists="overwrite"), start(), checkpoint(500))
    assert json.loads((run / "mlflow.json").read_text()) not in ({}, first)
    assert sorted(found.info.status for found in runs(mlflow_store)) == ["FAILED", "FINISHED", "FINISHED"]


def test_deleted_mlflow_run_is_created_again(tmp_path, mlflow_store):
    run = tmp_path / "run"
    recorded(config(run, mlflow="xrays"), start(), checkpoint(500))
    mlflow_store.delete_run(runs(mlflow_store)[0].info.run_id)
    recorded(config(run, mlflow="xrays"), start(500), resumes=True)
    recorded(config(run, mlflow="others"), start(500), resumes=True)
    assert len(runs(mlflow_store)) == len(runs(mlflow_store, "others")) == 1


def test_unreachable_mlflow_stops_a_new_run_but_not_a_resumed_one(tmp_path, mlflow_store, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pass/word@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="--mlflow: expected to create a run in the experiment 'xrays'") as error:
        Recorder(config(tmp_path / "run", mlflow="xrays"), resumes=False).__enter__()
    assert "pass" not in str(error.value) and "word" not in str(error.value) and not (tmp_path / "run").exists()
    recorded(config(tmp_path / "run", mlflow="xrays"), start(500), resumes=True)
    assert kinds(tmp_path / "run") == [("start", 500), ("end", None)]
    assert "MLflow: cannot be written, training continues" in caplog.text and "word" not in caplog.text


def test_missing_mlflow_package_is_a_user_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # makes the import fail
    with pytest.raises(UserError, match=r'--mlflow: expected the package .* pip install "cxrflow\[mlflow\]", or omit'):
        check_watch(config("/run", mlflow="xrays"))
    check_watch(config("/run"))
