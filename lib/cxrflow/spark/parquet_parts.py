"""Frames as Parquet files that Python reads and writes: Spark then needs no client of its own for the place, nor a way
to rename, which object stores lack. Whoever collects the files' names decides which of them count."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from cxrflow.base import storage
from cxrflow.base.schema import spark_ddl

Task = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def write_parts(
    frame: DataFrame, folder: str, schema: pa.Schema, task: Task = iter, counted: tuple[str, ...] = ()
) -> DataFrame:
    """Write what ``task`` makes of each partition of a frame as one file of ``schema`` below ``folder``, when evaluated;
    columns that it lacks are null.

    Gives rows of file (its place), the text columns ``counted``, and rows (how many have these values). A task that is
    tried again writes another file, so only those that are named here are whole.
    """
    columns = [
        pa.field("file", pa.string()),
        *(pa.field(name, pa.string()) for name in counted),
        pa.field("rows", pa.int64()),
    ]
    writer = _PartWriter(folder, schema, task, counted, pa.schema(columns))
    return frame.mapInArrow(writer, spark_ddl(writer.result))


def read_parts(spark: SparkSession, places: list[str], schema: pa.Schema) -> DataFrame:
    """The columns of ``schema`` of such files; each task reads one or several."""
    files = spark.createDataFrame([(place,) for place in places], "file string").repartition(max(1, len(places)))
    return files.mapInArrow(_PartReader(schema), spark_ddl(schema))


@dataclass(frozen=True)
class _PartWriter:
    folder: str
    schema: pa.Schema
    task: Task
    counted: tuple[str, ...]
    result: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = (_as(self.schema, batch) for batch in self.task(batches))
        first = next(tables, None)
        if first is None:  # an empty partition
            return
        place, counts = storage.join(self.folder, f"{uuid.uuid4().hex}.parquet"), Counter()
        with storage.open_file(place, "wb") as file, pq.ParquetWriter(file, self.schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table)
                counts.update(
                    zip(*(table[name].to_pylist() for name in self.counted), strict=True)
                    if self.counted
                    else {(): table.num_rows}
                )
        rows = [[place, *values, count] for values, count in counts.items()]
        yield pa.RecordBatch.from_pylist([dict(zip(self.result.names, row, strict=True)) for row in rows], self.result)


@dataclass(frozen=True)
class _PartReader:
    schema: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for place in batch["file"].to_pylist():
                with storage.open_file(place) as file:
                    for rows in pq.ParquetFile(file).iter_batches(10_000, columns=self.schema.names):
                        yield from _as(self.schema, rows).to_batches()


def _as(schema: pa.Schema, batch: pa.RecordBatch) -> pa.Table:
    """The columns of ``schema``, found by name."""
    found = set(batch.schema.names)
    return pa.Table.from_arrays(
        [
            batch[field.name].cast(field.type) if field.name in found else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ],
        schema=schema,
    )
