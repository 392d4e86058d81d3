"""Train and evaluate models on the 5,216 real files, for several benchmarks.

Tables and runs stay in a folder and are reused: a finished one is not repeated, and an unfinished training resumes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cxrflow.base.config import EvaluateConfig, IngestConfig, TrainConfig
from cxrflow.base.evaluations import Evaluation
from cxrflow.base.manifest import RunDirectory
from cxrflow.base.path_rules import patient_of
from ingest import DATA, say, stop
from program import ROOT

IMAGES = "chest_xray_224"
SERIES = {"IM": "NORMAL", "NORMAL2": "NORMAL", "bacteria": "PNEUMONIA", "virus": "PNEUMONIA"}
"""Series of file names, with the label of all their images."""


def make_parser(description: str, folder: str) -> argparse.ArgumentParser:
    """A parser with the flags that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--launcher", choices=("local", "horovod", "torch"), default="horovod", help="how workers start (horovod)"
    )
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="training workers (2)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / folder, help="tables and runs")
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"folder with {IMAGES} (CXRFLOW_BENCHMARK_DATA, or {DATA})"
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Path]:
    """The flags and the folder of images."""
    flags = parser.parse_args()
    if flags.launcher == "local" and flags.workers != 1:
        parser.error("--workers: expected 1 with the local launcher")
    images = flags.data / IMAGES
    if not images.is_dir():
        stop(f"expected the folder {images}, found none")
    flags.folder = flags.folder.resolve()
    return flags, images


def open_two_slots(name: str):
    from cxrflow.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = (
        "--master local[2] --driver-memory 1g --conf spark.ui.enabled=false "
        "--conf spark.ui.showConsoleProgress=false pyspark-shell"
    )
    return open_session(name)


def list_files(images: Path) -> dict[str, list[str]]:
    """Paths below ``images`` by patient; of several files with the same content, only the first."""
    found: dict[str, list[str]] = {}
    digests: set[bytes] = set()
    for path in sorted(images.glob("*/*.jpeg")):
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in digests:
            digests.add(digest)
            name = path.relative_to(images).as_posix()
            found.setdefault(patient_of(name, "kermany"), []).append(name)
    return found


def series_of(path: str) -> str:
    return re.search("bacteria|virus|NORMAL2|IM", path.rpartition("/")[2])[0]


def find_folds(patients: dict[str, list[str]], folds: int) -> dict[str, int]:
    """The fold of each patient, from 1: each series is distributed evenly, in random order."""
    members: dict[str, list[str]] = {}
    for patient, paths in sorted(patients.items()):
        members.setdefault(series_of(paths[0]), []).append(patient)
    random, found = np.random.default_rng(0), {}
    for name in SERIES:
        found |= {str(patient): index % folds + 1 for index, patient in enumerate(random.permutation(members[name]))}
    return found


def make_table(spark, assigned: Iterable[tuple[str, str, str]], config: IngestConfig) -> None:
    """Ingest images with assigned patients and splits, unless the table exists.

    ``assigned`` has (path, patient, split) of each image; its label is its folder. They are written to a labels file
    next to the table. Exits if the table exists with another assignment.
    """
    from cxrflow.pipeline.ingest_job import ingest

    table = Path(config.table)
    labels = table.with_name(f"{table.name}-labels.csv")
    rows = [
        ["path", "label", "patient_id", "split"],
        *([path, path.split("/")[0], patient, split] for path, patient, split in assigned),
    ]
    if (table / "manifest.json").exists():
        with open(labels, newline="") as file:
            if list(csv.reader(file)) != rows:
                stop(f"--folder: expected {labels} with today's splits, found others; choose another folder")
        return
    labels.parent.mkdir(parents=True, exist_ok=True)
    with open(labels, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    ingest(spark, dataclasses.replace(config, labels=str(labels)))


def run_folder(folder: Path, name: str, flags: argparse.Namespace) -> Path:
    """The run directory, separate for each number of epochs and workers, because their results differ."""
    return folder / f"{name}-{flags.epochs or 'default'}-epochs-{flags.workers}-{flags.launcher}"


def train_once(spark, config: TrainConfig) -> list[dict]:
    """The epochs of ``history.json``."""
    from cxrflow.pipeline.train_job import train

    run, started = RunDirectory(config.run), time.monotonic()
    train(None if config.launcher == "local" else spark, config)  # does nothing with a finished run
    say(f"{config.run}: trained, {time.monotonic() - started:.0f} s")
    return run.read(run.history, "train")["epochs"]


def evaluate_once(spark, config: TrainConfig, table: Path) -> tuple[dict, pd.DataFrame]:
    """The content of metrics.json and scores.parquet for a table's test split; both are kept next to the run."""
    from cxrflow.pipeline.evaluate_job import evaluate

    saved = Path(f"{config.run}-on-{table.name}")
    if not saved.exists():
        result = evaluate(spark, EvaluateConfig(run=config.run, table=str(table), split="test"))
        written = Evaluation(config.run, result["evaluation"])
        half = saved.with_name(f"{saved.name}-half")
        half.mkdir(exist_ok=True)
        for url in (written.metrics, written.scores):
            shutil.copy(url, half)
        half.rename(saved)
    return json.loads((saved / "metrics.json").read_text()), pd.read_parquet(saved / "scores.parquet")
