"""What a table holds already, so that an ingest does only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow import storage
from cxrflow.manifest import Manifest
from cxrflow.schema import QUARANTINE, SAMPLES, spark_ddl
from cxrflow.shards import read_shard

# Reasons that another try may do away with, though the file is the same: the machine, the rest of the table, a flag or
# an installed package may have changed.
PASSING = ("unreadable", "crashed", "in_another_split", "too_large", "unsupported")

_DETAILS = pa.schema([
    *(field for field in SAMPLES if field.name != "pixels"),
    pa.field("split", pa.string()), pa.field("shard", pa.string()), pa.field("row", pa.int32()),
])


@dataclass(frozen=True)
class Known:
    """The rows of a table, or none where there is no table yet."""

    manifest: Manifest | None
    samples: DataFrame
    """SAMPLES without the pixels, with split, shard (path below the table) and row (place in the shard)."""
    quarantine: DataFrame
    """QUARANTINE."""


def read_known(spark: SparkSession, table: str, manifest: Manifest | None) -> Known:
    shards = [(shard.path, shard.split) for shard in manifest.shards] if manifest else []
    refused = [(path, "") for path in manifest.quarantine] if manifest else []
    return Known(manifest, _read(spark, table, shards, _DETAILS), _read(spark, table, refused, QUARANTINE))


def _read(spark: SparkSession, table: str, files: list[tuple[str, str]], schema: pa.Schema) -> DataFrame:
    """The columns of ``schema`` of some of the table's files, read by the executors."""
    named = spark.createDataFrame(files, "path string, split string")
    root = storage.absolute(table)
    # One file a record: Spark's own reader would list and open them all for their schema first.
    return named.repartition(max(1, min(len(files), 2 * spark.sparkContext.defaultParallelism)), "path").mapInArrow(
        lambda batches: _read_files(root, batches, schema), spark_ddl(schema))


def _read_files(root: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for file in batch.to_pylist():
            stored = [name for name in schema.names if name not in ("split", "shard", "row")]
            columns = read_shard(storage.join(root, file["path"]), stored).to_pydict()
            rows = len(columns["path"])
            columns |= {"split": [file["split"]] * rows, "shard": [file["path"]] * rows, "row": range(rows)}
            yield pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema=schema)


def to_do(files: DataFrame, known: Known) -> DataFrame:
    """Those of the labelled ``files`` that the table does not hold, or holds of another file under the same path:
    another size, modification time, label or patient. One in quarantine is tried again where its reason may pass."""
    same = (F.col("new.path") == F.col("old.path")) & (F.col("new.size") == F.col("old.size")) & \
        F.col("new.modified").eqNullSafe(F.col("old.modified"))
    placed_alike = (F.col("new.label") == F.col("old.label")) & (F.col("new.patient_id") == F.col("old.patient_id"))
    still_unlabelled = (F.col("old.reason") == "unlabelled") & F.col("new.label").isNull()
    hopeless = ~F.col("old.reason").isin(*PASSING, "unlabelled") | still_unlabelled
    return files.alias("new").join(known.samples.alias("old"), same & placed_alike, "left_anti").alias("new").join(
        known.quarantine.alias("old"), same & hopeless, "left_anti")


def left_over(known: DataFrame, work: DataFrame) -> DataFrame:
    """The rows of a table that stay as they are: those whose file is not done anew."""
    return known.join(work.select("path"), "path", "left_anti")
