"""Score a split of a table on the executors and judge the scores on the driver, which sees numbers only."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession

from cxrflow import metrics, storage
from cxrflow.config import EvaluateConfig
from cxrflow.delta import check_unchanged
from cxrflow.errors import UserError
from cxrflow.manifest import Manifest, RunDirectory, read_manifest, write_json
from cxrflow.schema import score_column, truth_column
from cxrflow.shards import read_shard
from cxrflow.spark.credentials import share_credentials
from cxrflow.spark.score import Run, Scorer, read_run
from cxrflow.spark.session import settings, task_slots

log = logging.getLogger(__name__)


TOLD = {"single": "with one label an image", "multi": "with several findings an image (--findings)"}


def check_evaluate(config: EvaluateConfig) -> tuple[Run, Manifest]:
    """Read the run and the manifest; raises UserError where they are missing or do not fit each other."""
    run, manifest = read_run(config.run), read_manifest(config.table)
    check_unchanged(config.table, manifest)
    if (run.recipe.height, run.recipe.width) != (manifest.height, manifest.width):
        raise UserError(f"--table: expected images of {run.recipe.height}x{run.recipe.width}, which the model of {config.run!r} takes, "
                        f"got {manifest.height}x{manifest.width}; ingest with --height {run.recipe.height} --width {run.recipe.width}")
    if manifest.task != run.task:
        raise UserError(f"--table: expected a table {TOLD[run.task]}, as the run was trained on, but {config.table!r} is one "
                        f"{TOLD[manifest.task]}; ingest the images again")
    unknown = sorted(set(manifest.labels) - set(run.labels))
    if unknown:
        raise UserError(f"--table: expected the labels that the model knows ({', '.join(run.labels)}), "
                        f"got {', '.join(unknown)}; train on a table that has them")
    if not manifest.of_split(config.split):
        raise UserError(f"--split: expected a split with images, but {config.split} of {config.table!r} is empty")
    return run, manifest


def evaluate(spark: SparkSession, config: EvaluateConfig) -> dict:
    """Score every sample of ``config.split``; writes metrics.json and scores.parquet to the run directory.

    Returns what ``metrics.judge`` returns, with split, table and seconds. Raises UserError for bad input.
    """
    started = time.monotonic()
    share_credentials(spark)
    run, manifest = check_evaluate(config)
    scored = score_table(spark, config.table, manifest, config.split, run)
    truth = run.truth(scored["label"], manifest.labels)
    scores = scored[[score_column(label) for label in run.labels]].to_numpy()
    figures = metrics.judge(truth, scores, scored["patient_id"].to_numpy(), run.labels, run.positive, run.threshold,
                            config.bootstrap, config.seed)
    scored["predicted_label"] = run.called(scores)
    if run.task == "multi":
        scored = scored.join(pd.DataFrame(truth, columns=[truth_column(label) for label in run.labels]))
    directory = RunDirectory(config.run)
    result = {"split": config.split, "table": storage.absolute(config.table), **figures,
              "seconds": round(time.monotonic() - started, 2)}
    buffer = io.BytesIO()
    scored.to_parquet(buffer, index=False)
    storage.write_bytes(directory.scores, buffer.getvalue())
    write_json(directory.metrics, result)
    log.info("\n%s", as_table(figures))
    return result


def score_table(spark: SparkSession, table: str, manifest: Manifest, split: str, run: Run) -> pd.DataFrame:
    """One row a sample, in order of path: path, label, patient_id, split, the score of each label, and where its
    pixels are (shard, row). About 300 bytes a sample on the driver, and no pixels."""
    shards = [(shard.path, shard.split) for shard in manifest.of_split(split)]
    task = _ScoreShards(storage.absolute(table), manifest.height, manifest.width, run.labels, Scorer(spark, run))
    columns = ", ".join(f"`{score_column(label)}` float" for label in run.labels)
    schema = f"path string, label string, patient_id string, split string, {columns}, shard string, row int"
    with settings(spark, {"spark.sql.execution.arrow.pyspark.enabled": True}):
        work = spark.createDataFrame(shards, "shard string, split string").repartition(min(len(shards), 4 * task_slots(spark)))
        return work.mapInArrow(task, schema).toPandas().sort_values("path", ignore_index=True)


@dataclass(frozen=True)
class _ScoreShards:
    """Scores the shards of one Spark partition; each shard is read where it is scored."""

    table: str
    height: int
    width: int
    labels: list[str]
    scorer: Scorer

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                yield from self._score(**row).to_batches()

    def _score(self, shard: str, split: str) -> pa.Table:
        table = read_shard(storage.join(self.table, shard), ["path", "label", "patient_id", "pixels"])
        pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), np.uint8)
        scores = self.scorer(pixels.reshape(-1, self.height, self.width))
        table = table.drop_columns(["pixels"]).append_column("split", pa.array([split] * len(table)))
        for place, label in enumerate(self.labels):
            table = table.append_column(score_column(label), pa.array(scores[:, place]))
        table = table.append_column("shard", pa.array([shard] * len(table)))
        return table.append_column("row", pa.array(range(len(table)), pa.int32())).replace_schema_metadata(None)


def as_table(figures: dict) -> str:
    """The figures for a person: each rate with its 95 % interval, and the confusion matrix."""
    def rate(name: str, key: str) -> str:
        value, interval = figures[key], figures[f"{key}_interval"]
        shown = "none" if value is None else f"{value:.3f}"
        within = f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else "no interval: too few patients"
        return f"{name:<12} {shown}  ({within})"

    lines = [f"{figures['n']:,} images of {figures['patients']:,} patients"]
    if "thresholds" in figures:
        return "\n".join([*lines, rate("mean AUC", "auc"), *_finding_lines(figures)])
    lines += [rate("accuracy", "accuracy"), rate("AUC", "auc")]
    if "threshold" in figures:
        lines += [rate("sensitivity", "sensitivity"), rate("specificity", "specificity"),
                  f"{'threshold':<12} {figures['threshold']:.3f}  on the score of {figures['positive_label']}"]
    labels = figures["labels"]
    width = max(map(len, labels)) + 2
    lines.append("truth \\ called".ljust(16) + "".join(label.rjust(width) for label in labels))
    lines += [label.ljust(16) + "".join(str(count).rjust(width) for count in row)
              for label, row in zip(labels, figures["confusion"], strict=True)]
    return "\n".join(lines)


def _finding_lines(figures: dict) -> list[str]:
    """A line a finding, of the images where it is known."""
    names = ("auc", "sensitivity", "specificity", "threshold")
    width = max(map(len, [*figures["labels"], "finding"])) + 2
    lines = ["finding".ljust(width) + f"{'images':>9}{'present':>9}" + "".join(f"{name:>13}" for name in names)]
    for label, found in figures["per_label"].items():
        values = {**found, "threshold": figures["thresholds"][label]}
        shown = ["none" if values[name] is None else f"{values[name]:.3f}" for name in names]
        lines.append(label.ljust(width) + f"{found['n']:>9,}{found['positives']:>9,}" + "".join(f"{value:>13}" for value in shown))
    return lines
