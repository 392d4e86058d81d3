"""Score raw image files on the executors: list, decode as ingest does, score, write Parquet."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from cxrflow import metrics
from cxrflow.base import schema, storage
from cxrflow.base.config import PredictConfig, parse_bytes
from cxrflow.base.errors import UserError
from cxrflow.base.schema import score_column
from cxrflow.base.shard_files import count_labels
from cxrflow.images import DecodeError
from cxrflow.metrics import Prior
from cxrflow.spark.credentials import share_credentials
from cxrflow.spark.decode_task import decode_files
from cxrflow.spark.insecure_packages import warn_about_insecure_packages
from cxrflow.spark.listing import check_apart, check_images, count_hidden, list_files, with_contents
from cxrflow.spark.parquet_parts import Task, read_parts, write_parts
from cxrflow.spark.scorer import BATCH, Run, Scorer, find_prior, read_run
from cxrflow.spark.session import cached, registered_slots, settings

log = logging.getLogger(__name__)

FILES_PER_TASK = 2000


def check_predict(config: PredictConfig) -> Run:
    """Read the run; raises UserError for what shows to be wrong before Spark is started."""
    check_images(config.images)
    check_apart(config.images, config.predictions, "--predictions")
    if storage.exists(config.predictions) and not storage.is_empty_folder(config.predictions):
        if config.if_exists == "fail":
            raise UserError(
                f"--predictions: expected a new folder, but {config.predictions!r} exists; "
                "name another folder, or replace the predictions with --if-exists overwrite"
            )
        if not is_predictions(config.predictions):
            raise UserError(
                f"--predictions: expected predictions to replace, but {config.predictions!r} holds something "
                "else, which is left alone; name another folder"
            )
    run = read_run(config.run)
    if config.prevalence:
        find_prior(config.prevalence, run)
    return run


def predict(spark: SparkSession, config: PredictConfig) -> dict:
    """Score every file below ``config.images`` with the run's model, as training saw its images.

    Writes one row a file (see ``schema.predictions``): a score for each label and the predicted label, or the
    reason where the file could not be read. Returns files, scored, unreadable (by reason), counts by predicted
    label, the prevalence that scores were re-weighted for, if they were, and seconds. Raises UserError for bad input.
    """
    started = time.monotonic()
    share_credentials(spark)
    run = check_predict(config)
    columns = schema.predictions(run.labels)
    memory = parse_bytes("--worker-memory", config.worker_memory)
    staging = storage.join(config.predictions, "_staging")
    is_local = storage.is_local(config.images)
    with (
        settings(spark, {"spark.sql.files.openCostInBytes": 4096}),
        cached(list_files(spark, config.images)) as listing,
    ):
        files = listing.where("not hidden").drop("hidden")
        total = files.count()
        if not total:
            raise UserError(f"--images: expected image files, but there is none below {config.images!r}")
        skipped = listing.where("hidden").count() if is_local else count_hidden(spark, config.images, total)
        log.info("%s files below %s", f"{total:,}", config.images)
        warn_about_insecure_packages(spark)
        prior = find_prior(config.prevalence, run) if config.prevalence else None
        score = _ScoreFiles(memory, _Caller(run, prior), Scorer(spark, run))
        if is_local:
            parts = [files.repartition(max(min(total, 2 * registered_slots(spark)), total // FILES_PER_TASK), "path")]
        else:
            parts = with_contents(spark, config.images, files, memory // 8)
        try:
            storage.remove(staging)
            written = [row for part in parts for row in _write(part, staging, columns, score)]
            if not is_local:
                written += _write_unread(spark, files, staging, columns, {row["file"] for row in written})
            rows = sum(row["rows"] for row in written)
            if rows != total:
                raise RuntimeError(f"{total} files were listed, but {rows} became rows; run the job again")
            _replace(config.predictions, {row["file"] for row in written})
        finally:
            storage.remove(staging)
    called, reasons = Counter(), Counter()
    for row in written:
        (called if row["reason"] is None else reasons)[row["predicted_label"] or row["reason"]] += row["rows"]
    return {
        "files": total,
        "skipped": skipped,
        "scored": sum(called.values()),
        "unreadable": sum(reasons.values()),
        "reasons": dict(sorted(reasons.items())),
        "predicted": dict(sorted(count_labels(called, run.task)["labels"].items())),
        "threshold": prior.threshold(run.threshold, run.positive) if prior else run.threshold,
        "prevalence": dict(zip(run.labels, prior.clinic, strict=True)) if prior else None,
        "predictions": storage.absolute(config.predictions),
        "seconds": round(time.monotonic() - started, 2),
    }


def _write(frame: DataFrame, staging: str, columns: pa.Schema, task: Task = iter) -> list[Row]:
    return write_parts(frame, staging, columns, task, ("predicted_label", "reason")).collect()


def _write_unread(
    spark: SparkSession, files: DataFrame, staging: str, columns: pa.Schema, scored: set[str]
) -> list[Row]:
    """A row for each file that Spark did not hand over: it passes over those that it cannot read."""
    done = read_parts(spark, sorted(scored), pa.schema([columns.field("path")]))
    unread = (
        files.join(done, "path", "left_anti")
        .withColumn("reason", F.lit("unreadable"))
        .withColumn("detail", F.lit("Spark could not read it"))
    )
    return _write(unread, staging, columns)


def is_predictions(url: str) -> bool:
    """Whether the folder holds what ``predict`` writes."""
    files = storage.files(url, ".parquet")
    if not files:
        return False
    with storage.open_file(files[0]) as file:
        return {"path", "predicted_label", "reason"} <= set(pq.read_schema(file).names)


def _replace(predictions: str, staged: set[str]) -> None:
    """Put the staged files in the place of the older ones, once they are complete."""
    staging = storage.join(predictions, "_staging/")
    older = [path for path in storage.files(predictions, ".parquet") if not path.startswith(staging)]
    for path in sorted(staged):
        storage.move(path, storage.join(predictions, path.rsplit("/", 1)[1]))
    for path in older:
        storage.remove(path)


@dataclass(frozen=True)
class _Caller:
    """From the model's scores to those that are written, and to predicted labels."""

    run: Run
    prior: Prior | None

    def rows(self, scores: np.ndarray) -> list[dict]:
        """The columns that scores (n, K) make, a dict a row."""
        weighted = self.prior(scores) if self.prior else scores
        run = self.run
        threshold = self.prior.threshold(run.threshold, run.positive) if self.prior else run.threshold
        called = run.named(metrics.predicted(weighted, run.positive, threshold))
        columns = [score_column(label) for label in run.labels]
        return [
            dict(zip(columns, row, strict=True)) | {"predicted_label": label}
            for row, label in zip(weighted.tolist(), called, strict=True)
        ]


@dataclass(frozen=True)
class _ScoreFiles:
    """Decodes and scores the files of one Spark partition, a small batch at a time."""

    memory: int
    caller: _Caller
    scorer: Scorer

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pending: list[dict] = []
        for row, digest, decoded in decode_files(batches, self.caller.run.recipe, self.memory // 2):
            result = {"path": row["path"], "size": row["size"], "modified": row["modified"], "sha256": digest}
            if isinstance(decoded, DecodeError):
                pending.append({**result, "reason": decoded.reason, "detail": decoded.detail})
            else:
                pending.append({**result, "pixels": decoded.pixels.copy()})
            if len(pending) == BATCH:
                yield self._score(pending)
                pending = []
        if pending:
            yield self._score(pending)

    def _score(self, results: list[dict]) -> pa.RecordBatch:
        readable = [result for result in results if "pixels" in result]
        if readable:
            scores = self.scorer(np.stack([result.pop("pixels") for result in readable]))
            for result, row in zip(readable, self.caller.rows(scores), strict=True):
                result |= row
        return pa.RecordBatch.from_pylist(results, schema=schema.predictions(self.caller.run.labels))
