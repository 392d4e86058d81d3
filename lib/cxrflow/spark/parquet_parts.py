"""Frames as Parquet files that Python tasks read and write.

Spark itself then needs no client for the file system, and no rename, which object stores lack. A retried task writes
another file, so only the files whose names were collected count.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from cxrflow.base import storage
from cxrflow.base.schema import spark_ddl

Task = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Key = Callable[[pa.Table], list[str | None]]
"""Returns a text or None for each row."""

BATCH_ROWS = 10_000
GROUP_ROWS = 100_000
"""Most rows of a row group of a merged file."""


def values_of(column: str) -> Key:
    """The values of a text column, to count them."""
    return partial(_values, column)


def _values(column: str, table: pa.Table) -> list[str | None]:
    return table[column].to_pylist()


def write_parts(
    frame: DataFrame, folder: str, schema: pa.Schema, task: Task = iter, counted: Mapping[str, Key] | None = None
) -> DataFrame:
    """Apply ``task`` to each partition and write the result as a Parquet file of ``schema`` below ``folder``.

    Columns of ``schema`` that the result lacks are null. The files are written when the returned frame is evaluated.
    Its rows are: file (URL), a text column for each of ``counted``, and rows (the number of rows with these values).
    """
    counted = counted or {}
    columns = [
        pa.field("file", pa.string()),
        *(pa.field(name, pa.string()) for name in counted),
        pa.field("rows", pa.int64()),
    ]
    writer = _PartWriter(folder, schema, task, dict(counted), pa.schema(columns))
    return frame.mapInArrow(writer, spark_ddl(writer.result))


def read_parts(spark: SparkSession, urls: list[str], schema: pa.Schema) -> DataFrame:
    """The columns of ``schema`` of such files; each task reads one file or a few."""
    files = spark.createDataFrame([(url,) for url in urls], "file string").repartition(max(1, len(urls)))
    return files.mapInArrow(_PartReader(schema), spark_ddl(schema))


def read_batches(urls: list[str], columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of Parquet files, in this process."""
    for url in urls:
        with storage.open_file(url) as file:
            yield from pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns)


@dataclass(frozen=True)
class MergeParts:
    """A task that writes the rows of such files as one file, a few row groups at a time."""

    files: list[str]
    target: str
    schema: pa.Schema

    def __call__(self) -> None:
        """Write the file; it has ``schema`` with its metadata."""
        with storage.open_file(self.target, "wb") as file, pq.ParquetWriter(file, self.schema) as writer:
            group: list[pa.RecordBatch] = []
            for batch in itertools.chain(read_batches(self.files), [None]):
                if group and (batch is None or sum(len(part) for part in group) + len(batch) > GROUP_ROWS):
                    writer.write_table(pa.Table.from_batches(group).cast(self.schema))
                    group = []
                if batch is not None:
                    group.append(batch)


@dataclass(frozen=True)
class _PartWriter:
    folder: str
    schema: pa.Schema
    task: Task
    counted: dict[str, Key]
    result: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = (_cast(self.schema, batch) for batch in self.task(batches))
        first = next(tables, None)
        if first is None:  # an empty partition
            return
        url = storage.join(self.folder, f"{uuid.uuid4().hex}.parquet")
        counts: Counter[tuple[str | None, ...]] = Counter()
        with storage.open_file(url, "wb") as file, pq.ParquetWriter(file, self.schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table)
                if self.counted:
                    counts.update(zip(*(key(table) for key in self.counted.values()), strict=True))
                else:
                    counts[()] += table.num_rows
        rows = [[url, *values, count] for values, count in counts.items()]
        yield pa.RecordBatch.from_pylist([dict(zip(self.result.names, row, strict=True)) for row in rows], self.result)


@dataclass(frozen=True)
class _PartReader:
    schema: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for rows in read_batches(batch["file"].to_pylist(), self.schema.names):
                yield from _cast(self.schema, rows).to_batches()


def _cast(schema: pa.Schema, batch: pa.RecordBatch) -> pa.Table:
    """The columns of ``schema``, matched by name; null if the batch lacks them."""
    found = set(batch.schema.names)
    return pa.Table.from_arrays(
        [
            batch[field.name].cast(field.type) if field.name in found else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ],
        schema=schema,
    )
