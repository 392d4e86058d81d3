"""Predict: list the files, decode and score them on the executors, write the predictions as Parquet."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from cxrflow.base import schema, staging_folder, storage
from cxrflow.base.config import PredictConfig, parse_bytes
from cxrflow.base.errors import UserError
from cxrflow.base.predictions import has_predictions, predictions_file, with_manifest
from cxrflow.base.schema import spark_ddl
from cxrflow.base.shard_files import count_labels
from cxrflow.images import DOUBTS, find_doubts
from cxrflow.images.decode_result import SEPARATOR
from cxrflow.metrics import Prior
from cxrflow.spark.credentials import share_credentials
from cxrflow.spark.image_folder import ImageFolder, open_folder
from cxrflow.spark.insecure_packages import warn_about_insecure_packages
from cxrflow.spark.listing import LISTING, check_apart, check_images
from cxrflow.spark.parquet_parts import MergeParts, Task, read_parts, values_of, write_parts
from cxrflow.spark.score_task import ScoreFiles
from cxrflow.spark.scorer import Run, Scorer, find_prior, read_run
from cxrflow.spark.session import cached, run_on_executor, settings

log = logging.getLogger(__name__)

NOTED = "noted"
"""Stands for a note without a doubt, where rows are counted by their kinds of doubt."""


def _kinds(table: pa.Table) -> list[str | None]:
    """The kinds of doubt of each row, joined by a separator; NOTED for another note, None for no note."""
    return [(SEPARATOR.join(find_doubts(note)) or NOTED) if note else None for note in table["note"].to_pylist()]


COUNTED = {"predicted_label": values_of("predicted_label"), "reason": values_of("reason"), "kinds": _kinds}


def check_predict(config: PredictConfig) -> Run:
    """Check the configuration before Spark starts; returns the run. Raises UserError."""
    check_images(config.images)
    check_apart(config.images, config.predictions, "--predictions")
    _check_output(config)
    run = read_run(config.run)
    if config.prevalence:
        find_prior(config.prevalence, run)
    return run


def _check_output(config: PredictConfig) -> None:
    """Raise UserError if the folder for the predictions holds what this job may not replace."""
    if has_predictions(config.predictions):
        if config.if_exists == "fail":
            raise UserError(
                f"--predictions: expected a new folder, but {config.predictions!r} holds predictions; "
                "choose another folder, or replace them with --if-exists overwrite"
            )
    elif not staging_folder.has_only_leftovers(config.predictions):
        raise UserError(
            f"--predictions: expected a new folder or one with predictions, but {config.predictions!r} holds "
            "something else, which predict never removes; choose another folder"
        )


def predict(spark: SparkSession, config: PredictConfig) -> dict:
    """Score every file below ``config.images`` with the run's model, decoded as its training images were.

    Writes ``schema.predictions``, one row per file: the scores and the predicted label, or the reason why the file
    could not be read. They appear at once, as one Parquet file: a run that dies earlier leaves the older predictions,
    or none. Returns files, skipped (hidden), scored, unreadable, reasons, noted (scored files with a note), doubts
    (files by kind of ``images.DOUBTS``), predicted (images by predicted label), threshold, prevalence (that the scores
    were re-weighted for), predictions (URL) and seconds. Raises UserError
    for bad input and RuntimeError if the number of rows differs from the number of files.
    """
    started = time.monotonic()
    share_credentials(spark)
    run = check_predict(config)
    prior = find_prior(config.prevalence, run) if config.prevalence else None
    config = dataclasses.replace(config, predictions=storage.absolute(config.predictions))
    with staging_folder.hold(config.predictions, "--predictions") as (staging, held):
        _check_output(config)  # another job may have written predictions before this one held the lease
        files, skipped, written = _score_files(spark, config, run, prior, staging)
        merged = storage.join(staging, "merged.parquet")
        counts = _count_predictions(written, run)
        columns = with_manifest(schema.predictions(run.labels), {"run": storage.absolute(config.run), **counts})
        run_on_executor(spark, MergeParts(sorted({row["file"] for row in written}), merged, columns))
        held.check()
        storage.move(merged, predictions_file(config.predictions))
    for line in _warnings(counts["doubts"], config.predictions):
        log.warning("%s", line)
    return {
        "files": files,
        "skipped": skipped,
        **counts,
        "threshold": prior.threshold(run.threshold, run.positive) if prior else run.threshold,
        "prevalence": dict(zip(run.labels, prior.clinic, strict=True)) if prior else None,
        "predictions": config.predictions,
        "seconds": round(time.monotonic() - started, 2),
    }


def _score_files(
    spark: SparkSession, config: PredictConfig, run: Run, prior: Prior | None, staging: str
) -> tuple[int, int | None, list[Row]]:
    """List, decode and score all files into ``staging``; returns (files, hidden files, rows of ``_write``)."""
    columns = schema.predictions(run.labels)
    memory = parse_bytes("--worker-memory", config.worker_memory)
    folder = open_folder(spark, config.images)
    with settings(spark, {"spark.sql.files.openCostInBytes": 4096}), cached(_list(spark, folder, staging)) as listing:
        files = listing.where("not hidden").drop("hidden")
        total = files.count()
        if not total:
            raise UserError(
                f"--images: expected image files, but there is none below {config.images!r}; choose another folder"
            )
        skipped = folder.count_hidden(total, listing.where("hidden").count())
        log.info("%s files below %s", f"{total:,}", config.images)
        warn_about_insecure_packages(spark)
        task = ScoreFiles(run, prior, Scorer(spark, run), memory)
        written = [
            row for frame in folder.read_contents(files, memory // 8) for row in _write(frame, staging, columns, task)
        ]
        if folder.skips_unreadable:
            written += _write_unread(spark, files, staging, columns, {row["file"] for row in written})
        rows = sum(row["rows"] for row in written)
        if rows != total:
            raise RuntimeError(
                f"expected a prediction for each of {total} files, got {rows}. Did the folder change during the job? "
                "Run it again"
            )
    return total, skipped, written


def _list(spark: SparkSession, folder: ImageFolder, staging: str) -> DataFrame:
    listing = folder.list_files(staging)
    return spark.range(1, numPartitions=1).mapInArrow(lambda _: listing(), spark_ddl(LISTING))


def _write(frame: DataFrame, staging: str, columns: pa.Schema, task: Task = iter) -> list[Row]:
    """Apply the task and write its rows below ``staging``; returns the number of rows by file and COUNTED."""
    return write_parts(frame, staging, columns, task, COUNTED).collect()


def _write_unread(
    spark: SparkSession, files: DataFrame, staging: str, columns: pa.Schema, scored: set[str]
) -> list[Row]:
    """Write a row for each file without one: Spark skips files that it cannot read."""
    done = read_parts(spark, sorted(scored), pa.schema([columns.field("path")]))
    unread = (
        files.join(done, "path", "left_anti")
        .withColumn("reason", F.lit("unreadable"))
        .withColumn("detail", F.lit("Spark could not read it"))
    )
    return _write(unread, staging, columns)


def _count_predictions(written: list[Row], run: Run) -> dict:
    predicted: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    noted = 0
    for row in written:
        if row["kinds"]:
            noted += row["rows"]
            kinds.update(dict.fromkeys(row["kinds"].split(SEPARATOR), row["rows"]))
        if row["reason"] is None:
            predicted[row["predicted_label"]] += row["rows"]
        else:
            reasons[row["reason"]] += row["rows"]
    return {
        "scored": predicted.total(),
        "unreadable": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "noted": noted,
        "doubts": {kind: files for kind, files in kinds.most_common() if kind in DOUBTS},
        "predicted": dict(sorted(count_labels(predicted, run.task)["labels"].items())),
    }


def _warnings(doubts: dict[str, int], predictions: str) -> list[str]:
    return [
        f"{files:,} images may be wrong ({kind}), and so may their scores: {DOUBTS[kind].meaning}. Look at them: the "
        f"column note of {predictions} names them. {DOUBTS[kind].advice}"
        for kind, files in doubts.items()
    ]
