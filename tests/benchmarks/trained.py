"""Models that benchmarks train from tables they make of real files, and what comes of judging them.

Everything is kept below a folder: what is there is not made again, and a training goes on where it was.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from ingest import say, stop

from cxrflow.config import EvaluateConfig, IngestConfig, TrainConfig
from cxrflow.labels import patient_of
from cxrflow.manifest import RunDirectory
from cxrflow.metrics import wilson

IMAGES = "chest_xray_224"


def find_images(data: Path) -> Path:
    """The folder of images below ``data``; ends the program where there is none."""
    images = data / IMAGES
    if not images.is_dir():
        stop(f"expected the folder {images}, found none")
    return images


def open_two_slots(name: str):
    from cxrflow.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = ("--master local[2] --driver-memory 1g --conf spark.ui.enabled=false "
                                         "--conf spark.ui.showConsoleProgress=false pyspark-shell")
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


def make_table(spark, dealt: Iterable[tuple[str, str, str]], config: IngestConfig) -> None:
    """``dealt``: (path, patient, split) of each image, whose label is its folder; they are written to a labels file beside
    the table of ``config``, which says the rest."""
    from cxrflow.spark.ingest import ingest

    table = Path(config.table)
    if (table / "manifest.json").exists():
        return
    labels = table.with_name(f"{table.name}-labels.csv")
    labels.parent.mkdir(parents=True, exist_ok=True)
    with open(labels, "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "patient_id", "split"])
        lines.writerows([path, path.split("/")[0], patient, split] for path, patient, split in dealt)
    ingest(spark, dataclasses.replace(config, labels=str(labels)))


def train_and_judge(spark, config: TrainConfig) -> tuple[dict, list[dict], pd.DataFrame]:
    """What ``metrics.json`` has of the test split, the epochs of ``history.json``, and the scored images."""
    from cxrflow.launch.train import train
    from cxrflow.spark.evaluate import evaluate

    run, began = RunDirectory(config.run), time.monotonic()
    train(None if config.launcher == "local" else spark, config)  # does nothing with a finished run
    if not Path(run.metrics).exists():
        evaluate(spark, EvaluateConfig(run=config.run, table=config.table, split="test"))
    say(f"{config.run}: done, {time.monotonic() - began:.0f} s now")
    return run.read(run.metrics, "evaluate"), run.read(run.history, "train")["epochs"], pd.read_parquet(run.scores)


def rate(right: int, n: int) -> str:
    """A share in percent with its 95 % interval by Wilson."""
    low, high = wilson(right, n)
    return f"{100 * right / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"
