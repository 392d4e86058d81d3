"""Scoring tasks on executors: of raw image files for predict, of a table's shards for evaluate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession

from cxrflow import metrics
from cxrflow.base import schema, storage
from cxrflow.base.manifest import Manifest, Shard
from cxrflow.base.schema import score_column
from cxrflow.base.shard_files import read_shard
from cxrflow.images import DecodeError
from cxrflow.metrics import Prior
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS, image_facts, source_facts
from cxrflow.spark.decode_task import decode_files
from cxrflow.spark.scorer import BATCH, Run, Scorer
from cxrflow.spark.session import settings, task_slots

TASKS_PER_SLOT = 4
BATCHES_PER_TASK = 16
SIDES = ("source_height", "source_width")


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
    ``metrics.shift``, and the location of the pixels (shard, row). A row takes about 500 bytes on the driver.
    """
    text = list(dict.fromkeys(["path", "label", "patient_id", *columns]))
    parts = divide_shards(manifest.of_split(split), task_slots(spark))
    task = ScoreShards(
        storage.absolute(table), manifest.height, manifest.width, parts, run.labels, text, Scorer(spark, run)
    )
    numbers = [*map(score_column, run.labels), *IMAGE_FACTS, *SOURCE_FACTS]
    result = [
        *(f"{schema.quoted(name)} string" for name in (*text, "split")),
        *(f"{schema.quoted(name)} float" for name in numbers),
        "shard string",
        "row int",
    ]
    with settings(spark, {"spark.sql.execution.arrow.pyspark.enabled": True}):
        tasks = spark.range(0, len(parts), 1, len(parts))
        return tasks.mapInArrow(task, ", ".join(result)).toPandas().sort_values("path", ignore_index=True)


def divide_shards(shards: list[Shard], slots: int) -> list[list[Shard]]:
    """The shards for each scoring task, about as many images each.

    Each task's last batch is not full, and each slot should get several tasks, because executors differ in speed. So
    there are up to TASKS_PER_SLOT tasks a slot as long as each has at least BATCHES_PER_TASK batches.
    """
    images = sum(shard.rows for shard in shards)
    waves = min(TASKS_PER_SLOT, max(1, images // (slots * BATCHES_PER_TASK * BATCH)))
    tasks: list[list[Shard]] = [[] for _ in range(slots * waves)]
    before = 0
    for shard in shards:
        middle = before + shard.rows / 2
        tasks[int(middle * len(tasks) / images)].append(shard)
        before += shard.rows
    return [task for task in tasks if task]


@dataclass(frozen=True)
class ScoreShards:
    """Reads and scores the shards of one task; yields the columns of ``score_table``.

    Batches span shards, because small tables have shards of a few images, and a batch costs the same when it is not
    full.
    """

    table: str
    height: int
    width: int
    tasks: list[list[Shard]]
    """The shards of each task, see ``divide_shards``."""
    labels: list[str]
    text: list[str]
    """Columns of the table to return as text."""
    scorer: Scorer

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the shards of the tasks whose numbers the batches hold."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for images in full_batches(map(self._read, self.tasks[number])):
                    yield from self._score(images).to_batches()

    def _read(self, shard: Shard) -> pa.Table:
        """The shard's text columns, split, sides, pixels, and the location of each row."""
        table = read_shard(storage.join(self.table, shard.path), [*dict.fromkeys([*self.text, *SIDES]), "pixels"])
        columns: dict[str, pa.Array | pa.ChunkedArray] = {name: table[name].cast(pa.string()) for name in self.text}
        columns["split"] = pa.repeat(shard.split, len(table))
        columns |= {f"_{side}": table[side] for side in SIDES}
        columns["_pixels"] = table["pixels"]
        columns["shard"] = pa.repeat(shard.path, len(table))
        columns["row"] = pa.array(range(len(table)), pa.int32())
        return pa.table(columns)

    def _score(self, images: pa.Table) -> pa.Table:
        """The columns of ``score_table`` for rows of ``_read``."""
        pixels = np.frombuffer(b"".join(images["_pixels"].to_pylist()), np.uint8)
        pixels = pixels.reshape(-1, self.height, self.width)
        sides = (images[f"_{side}"].to_numpy() for side in SIDES)
        columns = {name: images[name] for name in (*self.text, "split")}
        columns |= dict(zip(map(score_column, self.labels), self.scorer(pixels).T, strict=True))
        columns |= dict(zip(IMAGE_FACTS, image_facts(pixels).T, strict=True))
        columns |= dict(zip(SOURCE_FACTS, source_facts(*sides).T, strict=True))
        return pa.table({**columns, "shard": images["shard"], "row": images["row"]}).combine_chunks()


def full_batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of the tables in order, in tables whose lengths are multiples of BATCH except for the last."""
    rest: pa.Table | None = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        full = len(rest) - len(rest) % BATCH
        if full:
            yield rest.slice(0, full)
            rest = rest.slice(full)
    if rest is not None and len(rest):
        yield rest
