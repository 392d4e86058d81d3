"""Each job is killed at every write, rename and delete that it makes; readers then see the old result or the new one.

The jobs are real processes, and the kill is SIGKILL (tests/faults). The same command must then finish the work, and
leave nothing else behind. Of changes that differ in random names only, such as those of a table's shards, the first is
tried, on a local disk; those that no reader can tell from the next one are left out. CXRFLOW_FAULTS_ALL=1 tries all
changes, also on S3.
CXRFLOW_FAULTS_TABLE=FILE adds to a table of what readers saw.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cxrflow.base import storage
from cxrflow.base.evaluations import Evaluation, find_evaluation
from cxrflow.base.generations import READERS, read_from_any_generation
from cxrflow.base.manifest import PICTURES, RunDirectory, has_manifest, read_manifest
from cxrflow.base.predictions import has_predictions, predictions_file
from cxrflow.base.process_identity import this_machine
from cxrflow.base.shard_files import checksum, read_shard
from cxrflow.images.phantoms import PATIENT_RULE, make_phantoms
from cxrflow.training.checkpoint import has_checkpoint, read_checkpoint
from s3_server import S3Server

# All jobs take ten minutes, so they run by name: make test-faults.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif("CXRFLOW_FAULTS" not in os.environ, reason="takes ten minutes; make test-faults runs it"),
]

ROOT = Path(__file__).resolve().parents[1]
INGEST = {"height": 48, "width": 40, "shard_rows": 6, "split": "0.5,0.25,0.25", "patients": PATIENT_RULE}
TRAIN = {"epochs": 2, "batch_size": 4, "model": "plain", "augment": "none", "tta": 1}
BUCKET = "s3://faults"
ALL = "CXRFLOW_FAULTS_ALL" in os.environ
# The file that is written beside is renamed next, staged files do not count, and the others are not results. A lease is
# renewed after 20 seconds, which a job reaches on a busy machine only.
UNSEEN = re.compile(
    r"write .*\.tmp$|rename \S*_lease\.json|(remove|rmdir) \S*(\.tmp|_staging\S*)$|.*(_readers|tensorboard|\.preflight)"
)


class Jobs:
    """A process that runs jobs in forks of itself, and what it says about their changes."""

    def __init__(self, folder: Path, below: str, environment: dict[str, str], *arguments: str):
        folder.mkdir()
        self._folder = folder
        paths = [str(ROOT / "tests" / "faults"), str(ROOT / "lib")]
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "faults" / "forked_jobs.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            text=True,
            env={
                **os.environ,
                **environment,
                "KERAS_BACKEND": "torch",
                "PYSPARK_SUBMIT_ARGS": "--master local[2] --driver-memory 1g pyspark-shell",
                "PYTHONPATH": os.pathsep.join(paths),
                "CXRFLOW_FAULTS": str(folder),
                "CXRFLOW_FAULTS_BELOW": below,
            },
        )

    def run(self, job: str, options: dict, point: str = "") -> tuple[int, list[str]]:
        """(exit status, changes in order) of a job that is killed at ``point``, if it gets there."""
        (self._folder / "point").write_text(point or "0 ")
        (self._folder / "log").write_text("")
        self._process.stdin.write(json.dumps({"job": job, "options": options}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        changes = (self._folder / "log").read_text().splitlines()
        killed = bool(changes) and changes[-1] == "killed"
        return -9 if killed else int(answer), changes[: -1 if killed else None]

    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()[-3000:]

    def end(self) -> None:
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


@dataclass
class Store:
    """Where the jobs' folders are, and the processes that run them."""

    root: str
    """Folders of one test each are directly below it."""
    spark: Jobs
    local: Jobs
    images: Path
    """Images of 24 patients; those of 12 are also in the folder ``few`` beside."""

    def copy(self, name: str) -> str:
        """A new folder with what the jobs of ``base`` wrote; its URL."""
        source, target = storage.join(self.root, "base"), storage.join(self.root, name)
        if storage.is_local(self.root):
            shutil.copytree(source, target)
        else:
            for url in storage.files(source, ""):
                fs, path = storage.filesystem(url)
                fs.copy(path, path.replace("/base/", f"/{name}/", 1))
        return target


@pytest.fixture(scope="module")
def server():
    server = S3Server().start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        fs, _ = storage.filesystem(BUCKET)
        fs.mkdir("faults")
        yield server
        fs.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module", params=["local", "s3"] if ALL else ["local"])
def store(request, tmp_path_factory):
    """A store with the folder ``base``, where every job has finished once."""
    folder = tmp_path_factory.mktemp(request.param)
    images, few = folder / "images", folder / "few"
    make_phantoms(str(images), patients=24, images_per_patient=1, seed=3)
    shutil.copytree(
        images, few, ignore=lambda _, names: [name for name in names if "phantom0001" <= name[:11] < "phantom0013"]
    )
    if request.param == "local":
        root, environment = str(folder / "store"), {}
        os.mkdir(root)
    else:
        root, environment = BUCKET, request.getfixturevalue("server").environment()
    store = Store(
        root,
        Jobs(
            folder / "spark", root, environment, "spark", "cxrflow.pipeline.ingest_job", "cxrflow.pipeline.evaluate_job"
        ),
        Jobs(folder / "keras", root, environment, "local", "torch", "keras", "cxrflow.pipeline.train_job", "pandas"),
        images,
    )
    try:
        base = storage.join(root, "base")
        for jobs, job, options in (
            (store.spark, "ingest", ingest_options(base, few)),
            (store.local, "train", train_options(base)),
            (store.spark, "evaluate", evaluate_options(base)),
            (store.spark, "predict", predict_options(base, few)),
            (store.local, "report", report_options(base)),
        ):
            assert jobs.run(job, options)[0] == 0, jobs.stderr()
        yield store
    finally:
        store.spark.end()
        store.local.end()


def ingest_options(folder: str, images: Path) -> dict:
    return {**INGEST, "images": str(images), "table": storage.join(folder, "table"), "grace_hours": 0}


def train_options(folder: str, **other) -> dict:
    return {**TRAIN, "table": storage.join(folder, "table"), "run": storage.join(folder, "run"), **other}


def evaluate_options(folder: str) -> dict:
    return {
        "run": storage.join(folder, "run"), "table": storage.join(folder, "table"), "split": "all", "bootstrap": 5,
    }  # fmt: skip


def predict_options(folder: str, images: Path, **other) -> dict:
    return {
        "run": storage.join(folder, "run"), "images": str(images), "predictions": storage.join(folder, "predictions"),
        **other,
    }  # fmt: skip


def vacuum_options(folder: str) -> dict:
    return {"table": storage.join(folder, "table"), "grace_hours": 0}


def report_options(folder: str) -> dict:
    return {"run": storage.join(folder, "run"), "examples": 1}


# What readers see: each function returns "none", "old" or "new", and fails if it is neither.


def see_table(folder: str) -> str:
    table = storage.join(folder, "table")
    if not has_manifest(table):
        return "none"
    manifest = read_manifest(table)
    for shard in manifest.shards:
        ids = read_shard(storage.join(table, shard.path), ["sample_id"])["sample_id"].to_numpy()
        assert len(ids) == shard.rows and checksum(ids) == shard.checksum
    for path in manifest.quarantine:
        pq.read_table(io.BytesIO(storage.read_bytes(storage.join(table, path))))
    # The first ingest is of 12 images. The next one adds 24 at other paths, or makes a new table of them.
    return {12: "old", 24: "new", 36: "new"}[manifest.rows()]


def see_table_and_older(folder: str) -> str:
    """As above; and a job that began before with the older generation still reads it."""
    table, seen = storage.join(folder, "table"), see_table(folder)
    older = read_manifest(table, 1)
    for shard in older.shards:
        assert read_from_any_generation(storage.read_bytes, storage.join(table, shard.path))
    return seen


def see_predictions(folder: str) -> str:
    predictions = storage.join(folder, "predictions")
    if not has_predictions(predictions):
        return "none"
    visible = [name for name in storage.entries(predictions) if not name.startswith("_")]
    assert visible == ["predictions.parquet"]  # what spark.read.parquet(folder) would read
    rows = pq.read_table(io.BytesIO(storage.read_bytes(predictions_file(predictions))))
    manifest = json.loads(rows.schema.metadata[b"cxrflow"])
    assert len(rows) == len(set(rows["path"].to_pylist())) == manifest["scored"] + manifest["unreadable"]
    return {True: "new", False: "old"}[len(rows) > 20]


def see_evaluations(folder: str) -> str:
    run = storage.join(folder, "run")
    newest, figures = find_evaluation(run)
    for number in range(1, 1 + int(newest.name.rsplit("-", 1)[1])):
        evaluation, figures = find_evaluation(run, f"table-all-{number}")
        scores = pq.read_table(io.BytesIO(storage.read_bytes(evaluation.scores)))
        assert len(scores) == figures["n"] == 12
    return "old" if newest.name == "table-all-1" else "new"


def see_report(folder: str) -> str:
    run = RunDirectory(storage.join(folder, "run"))
    for name in PICTURES:
        if storage.exists(run.picture(name)):
            picture = storage.read_bytes(run.picture(name))
            assert picture.startswith(b"\x89PNG") and picture.endswith(b"IEND\xaeB`\x82")
    page = storage.read_bytes(run.report).decode()
    assert page.rstrip().endswith("</html>")
    return "new" if "table-all-2" in page else "old"


def see_run(folder: str) -> str:
    """Whole files, and a checkpoint to resume from if there was one. The model may be newer than the history."""
    run = RunDirectory(storage.join(folder, "run"))
    for url in (run.config, run.history, run.reference):
        if storage.exists(url):
            json.loads(storage.read_bytes(url))
    if has_checkpoint(run):
        read_checkpoint(run)
    if storage.exists(run.model):
        np.load(io.BytesIO(storage.read_bytes(run.model)), allow_pickle=False).close()  # a zip file
    if not storage.exists(run.history):
        return "none"
    history = run.read(run.history, "train")
    return f"{len(history['epochs'])} epochs{', finished' if history['finished'] else ''}"


def nothing_left(folder: str) -> None:
    """No leases, staged or temporary files."""
    found = {url.removeprefix(folder + "/") for url in storage.files(folder, "")}
    left = {path for path in found if "/_staging/" in path or path.endswith((".tmp", "_lease.json"))}
    assert left == set()


@dataclass
class Case:
    """A job to kill, and how its result is seen."""

    job: str
    options: object
    """From the folder and the images to the job's options."""
    see: object
    finished: str
    """What is seen after the job."""
    remove: tuple[str, ...] = ()
    """What is removed from the copy of ``base`` first."""
    prepare: object = None
    """What changes the copy of ``base``."""
    refused: bool = False
    """Whether the same command is refused once its result is there."""


def hold_reader(folder: str) -> None:
    """A job of this process reads the table's first generation."""
    reader = {"generation": 1, "host": this_machine(), "pid": os.getpid(), "renewed": time.time()}
    storage.write_bytes(storage.join(folder, "table", READERS, "reader.json"), json.dumps(reader).encode())


def old_generation(folder: str) -> None:
    """A generation that nobody needs, a shard of it, and a shard that a killed ingest left."""
    for path, content in (
        ("_older/000000.json", b'{"shards": []}'),
        ("_older/samples/split=train/old.parquet", b""),
        ("samples/split=train/left.parquet", b""),
    ):
        storage.write_bytes(storage.join(folder, "table", path), content)


def second_evaluation(folder: str) -> None:
    """The newest evaluation is not the one of the report in ``base``."""
    run = storage.join(folder, "run")
    _, figures = find_evaluation(run)
    second = Evaluation(run, "table-all-2")
    storage.write_bytes(second.scores, storage.read_bytes(Evaluation(run, "table-all-1").scores))
    figures = {**figures, "evaluation": second.name, "finished": "9"}
    storage.write_bytes(second.metrics, json.dumps(figures).encode())
    storage.remove(RunDirectory(run).model)  # heat maps would take most of the time


CASES = {
    "ingest, new table": Case("ingest", ingest_options, see_table, "new", remove=("table",)),
    "ingest, more images": Case("ingest", ingest_options, see_table_and_older, "new", prepare=hold_reader),
    "predict, new folder": Case(
        "predict",
        predict_options,
        see_predictions,
        "new",
        remove=("predictions",),
    ),
    "predict, overwrite": Case(
        "predict", lambda *given: predict_options(*given, if_exists="overwrite"), see_predictions, "new"
    ),
    "evaluate": Case("evaluate", lambda folder, _: evaluate_options(folder), see_evaluations, "new"),
    "report": Case("report", lambda folder, _: report_options(folder), see_report, "new", prepare=second_evaluation),
    "train, new run": Case(
        "train",
        lambda folder, _: train_options(folder),
        see_run,
        "2 epochs, finished",
        remove=("run",),
    ),
    "train, overwrite": Case(
        "train",
        lambda folder, _: train_options(folder, epochs=1, if_exists="overwrite"),
        see_run,
        "1 epochs, finished",
    ),
    "vacuum": Case("vacuum", lambda folder, _: vacuum_options(folder), see_table, "old", prepare=old_generation),
}


@pytest.mark.timeout(14400 if ALL else 1200)
@pytest.mark.parametrize("name", CASES)
def test_a_kill_at_any_change_leaves_the_old_result_or_the_new_one(store, name):
    case = CASES[name]
    jobs = store.spark if case.job in ("ingest", "predict", "evaluate") else store.local
    count = 0

    def start(point: str) -> tuple[str, int, list[str]]:
        nonlocal count
        count += 1
        folder = store.copy(f"{name.replace(', ', '-').replace(' ', '-')}-{count}")
        for part in case.remove:
            storage.remove(storage.join(folder, part))
        if case.prepare:
            case.prepare(folder)
        return folder, *jobs.run(case.job, case.options(folder, store.images), point)

    folder, status, changes = start("")
    assert status == 0 and case.see(folder) == case.finished, jobs.stderr()
    nothing_left(folder)
    for line, times in Counter(changes).items():
        if UNSEEN.match(line) and not ALL:
            continue
        for number in range(1, 1 + (times if ALL else 1)):
            folder, status, _ = start(f"{number} {line}")
            seen = case.see(folder)
            if status != -9:  # it was the renewal of a lease, for which this job was too fast
                assert status == 0, jobs.stderr()
                continue
            again, _ = jobs.run(case.job, case.options(folder, store.images))
            assert case.see(folder) == case.finished, f"after a kill at {number} {line}:\n{jobs.stderr()}"
            if case.refused and seen == case.finished:
                assert again == 1
            else:
                assert again == 0, f"after a kill at {number} {line}:\n{jobs.stderr()}"
                nothing_left(folder)
            if table := os.environ.get("CXRFLOW_FAULTS_TABLE"):
                with open(table, "a") as file:
                    file.write(
                        f"| {storage.absolute(store.root).split(':')[0][:2]} | {name} | {number} | {line} | {seen} |\n"
                    )
            storage.remove(folder)
