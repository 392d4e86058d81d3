"""Scoring tasks on executors: of raw image files for predict, of a table's shards for evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession

from cxrflow import metrics
from cxrflow.base import schema, storage
from cxrflow.base.manifest import Manifest
from cxrflow.base.schema import score_column
from cxrflow.base.shard_files import read_shard
from cxrflow.images import DecodeError
from cxrflow.metrics import Prior
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS, image_facts, source_facts
from cxrflow.spark.decode_task import decode_files
from cxrflow.spark.scorer import BATCH, Run, Scorer
from cxrflow.spark.session import settings, task_slots


@dataclass(frozen=True)
class ScoreFiles:
    """Decodes and scores the files of one Spark partition, BATCH files at a time; yields ``schema.predictions``."""

    run: Run
    prior: Prior | None
    """Re-weights the scores for another prevalence, if given."""
    scorer: Scorer
    memory: int
    """Bytes that a Python worker may take."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the files of the batches (path, size, modified and, for some folders, content)."""
        rows: list[dict] = []
        pixels: list[np.ndarray] = []
        for file, digest, decoded in decode_files(batches, self.run.recipe, self.memory // 2):
            row = {"path": file["path"], "size": file["size"], "modified": file["modified"], "sha256": digest}
            if isinstance(decoded, DecodeError):
                row |= {"reason": decoded.reason, "detail": decoded.detail}
            else:
                row["note"] = decoded.note
                pixels.append(decoded.pixels.copy())
            rows.append(row)
            if len(rows) == BATCH:
                yield self._score(rows, pixels)
                rows, pixels = [], []
        if rows:
            yield self._score(rows, pixels)

    def _score(self, rows: list[dict], pixels: list[np.ndarray]) -> pa.RecordBatch:
        """The rows with their scores; ``pixels`` belong to the rows without a reason, in order."""
        if pixels:
            readable = [row for row in rows if "reason" not in row]
            for row, columns in zip(readable, self._columns(self.scorer(np.stack(pixels))), strict=True):
                row |= columns
        return pa.RecordBatch.from_pylist(rows, schema=schema.predictions(self.run.labels))

    def _columns(self, scores: np.ndarray) -> list[dict]:
        """The score columns and predicted_label for scores (n, K), one dict per row."""
        run = self.run
        weighted = self.prior(scores) if self.prior else scores
        threshold = self.prior.threshold(run.threshold, run.positive) if self.prior else run.threshold
        predicted = run.to_labels(metrics.predicted(weighted, run.positive, threshold))
        names = [score_column(label) for label in run.labels]
        return [
            dict(zip(names, row, strict=True)) | {"predicted_label": label}
            for row, label in zip(weighted.tolist(), predicted, strict=True)
        ]


def score_table(
    spark: SparkSession, table: str, manifest: Manifest, split: str, run: Run, columns: list[str]
) -> pd.DataFrame:
    """Score a split of a table on the executors; returns one row per sample, ordered by path.

    Columns: path, label, patient_id and the table's ``columns`` as text, split, the score of each label, the facts of
    ``metrics.shift``, and the location of the pixels (shard, row). A row takes about 400 bytes on the driver.
    """
    shards = [(shard.path, shard.split) for shard in manifest.of_split(split)]
    text = list(dict.fromkeys(["path", "label", "patient_id", *columns]))
    task = ScoreShards(storage.absolute(table), manifest.height, manifest.width, run.labels, text, Scorer(spark, run))
    numbers = [*map(score_column, run.labels), *IMAGE_FACTS, *SOURCE_FACTS]
    result = [
        *(f"{schema.quoted(name)} string" for name in (*text, "split")),
        *(f"{schema.quoted(name)} float" for name in numbers),
        "shard string",
        "row int",
    ]
    with settings(spark, {"spark.sql.execution.arrow.pyspark.enabled": True}):
        tasks = spark.createDataFrame(shards, "shard string, split string").repartition(
            min(len(shards), 4 * task_slots(spark))
        )
        return tasks.mapInArrow(task, ", ".join(result)).toPandas().sort_values("path", ignore_index=True)


@dataclass(frozen=True)
class ScoreShards:
    """Reads and scores the shards of one Spark partition; yields the columns of ``score_table``."""

    table: str
    height: int
    width: int
    labels: list[str]
    text: list[str]
    """Columns of the table to return as text."""
    scorer: Scorer

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the shards of the batches (shard, split)."""
        for batch in batches:
            for row in batch.to_pylist():
                yield from self._score(**row).to_batches()

    def _score(self, shard: str, split: str) -> pa.Table:
        sides = ["source_height", "source_width"]
        table = read_shard(storage.join(self.table, shard), [*dict.fromkeys([*self.text, *sides]), "pixels"])
        pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), np.uint8).reshape(-1, self.height, self.width)
        heights, widths = (table[side].to_numpy() for side in sides)
        columns = {name: table[name].cast(pa.string()) for name in self.text}
        columns["split"] = pa.array([split] * len(table))
        columns |= dict(zip(map(score_column, self.labels), self.scorer(pixels).T, strict=True))
        columns |= dict(zip(IMAGE_FACTS, image_facts(pixels).T, strict=True))
        columns |= dict(zip(SOURCE_FACTS, source_facts(heights, widths).T, strict=True))
        return pa.table(
            {**columns, "shard": pa.array([shard] * len(table)), "row": pa.array(range(len(table)), pa.int32())}
        )
