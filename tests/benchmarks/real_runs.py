"""Models that benchmarks train on the 5,216 real files, and what comes of judging them.

Tables and runs are kept below a folder: what is there is not made again, and a training goes on where it was.
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
from cxrflow.base.manifest import RunDirectory
from cxrflow.base.path_rules import patient_of
from ingest import DATA, say, stop
from program import ROOT

IMAGES = "chest_xray_224"
SERIES = {"IM": "NORMAL", "NORMAL2": "NORMAL", "bacteria": "PNEUMONIA", "virus": "PNEUMONIA"}
"""With the label of all their images."""


def make_parser(description: str, folder: str) -> argparse.ArgumentParser:
    """A parser with the flags that all of them have."""
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
    """The flags, and the folder of images."""
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
    """Paths below ``images`` by patient, of files with the same content only one."""
    found, seen = {}, set()
    for path in sorted(images.glob("*/*.jpeg")):
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in seen:
            seen.add(digest)
            name = path.relative_to(images).as_posix()
            found.setdefault(patient_of(name, "kermany"), []).append(name)
    return found


def series_of(path: str) -> str:
    return re.search("bacteria|virus|NORMAL2|IM", path.rpartition("/")[2])[0]


def find_folds(patients: dict[str, list[str]], folds: int) -> dict[str, int]:
    """Of each patient, from 1: each series is dealt out evenly in random order."""
    members: dict[str, list[str]] = {}
    for patient, paths in sorted(patients.items()):
        members.setdefault(series_of(paths[0]), []).append(patient)
    random, found = np.random.default_rng(0), {}
    for name in SERIES:
        found |= {str(patient): place % folds + 1 for place, patient in enumerate(random.permutation(members[name]))}
    return found


def make_table(spark, dealt: Iterable[tuple[str, str, str]], config: IngestConfig) -> None:
    """``dealt``: (path, patient, split) of each image, whose label is its folder; they are written to a labels file beside
    the table of ``config``, which says the rest. Ends the program where the table is there, but was dealt otherwise."""
    from cxrflow.pipeline.ingest_job import ingest

    table = Path(config.table)
    labels = table.with_name(f"{table.name}-labels.csv")
    wanted = [
        ["path", "label", "patient_id", "split"],
        *([path, path.split("/")[0], patient, split] for path, patient, split in dealt),
    ]
    if (table / "manifest.json").exists():
        with open(labels, newline="") as file:
            if list(csv.reader(file)) != wanted:
                stop(f"--folder: expected {labels} as it would be dealt now, found others; name another folder")
        return
    labels.parent.mkdir(parents=True, exist_ok=True)
    with open(labels, "w", newline="") as file:
        csv.writer(file).writerows(wanted)
    ingest(spark, dataclasses.replace(config, labels=str(labels)))


def run_folder(folder: Path, name: str, flags: argparse.Namespace) -> Path:
    """Of a training: apart from those of other epochs and workers, whose result is another."""
    return folder / f"{name}-{flags.epochs or 'default'}-epochs-{flags.workers}-{flags.launcher}"


def train_once(spark, config: TrainConfig) -> list[dict]:
    """The epochs of ``history.json``."""
    from cxrflow.pipeline.train_job import train

    run, began = RunDirectory(config.run), time.monotonic()
    train(None if config.launcher == "local" else spark, config)  # does nothing with a finished run
    say(f"{config.run}: trained, {time.monotonic() - began:.0f} s now")
    return run.read(run.history, "train")["epochs"]


def judge_once(spark, config: TrainConfig, table: Path) -> tuple[dict, pd.DataFrame]:
    """What ``metrics.json`` has of the test split of a table, and its scored images; both are kept beside the run."""
    from cxrflow.pipeline.evaluate_job import evaluate

    kept = Path(f"{config.run}-on-{table.name}")
    if not kept.exists():
        evaluate(spark, EvaluateConfig(run=config.run, table=str(table), split="test"))
        half = kept.with_name(f"{kept.name}-half")
        half.mkdir(exist_ok=True)
        for name in ("metrics.json", "scores.parquet"):
            shutil.copy(Path(config.run) / name, half)
        half.rename(kept)
    return json.loads((kept / "metrics.json").read_text()), pd.read_parquet(kept / "scores.parquet")
