"""The image files below a folder, as a Spark DataFrame."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from urllib.parse import unquote

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow import storage
from cxrflow.errors import UserError
from cxrflow.schema import SOURCE, spark_ddl
from cxrflow.spark.session import settings

# Bytes of files that Spark hands a Python worker at a time where the files come through the JVM. Its default of
# 10,000 files at a time would be gigabytes of full-size X-rays.
CONTENT_BATCH_BYTES = 64 * 2**20
LISTING = pa.schema([field for field in SOURCE if field.name != "sha256"])
LISTING_BATCH = 10_000


def check_images(images: str) -> None:
    """Raise UserError where the folder is missing or empty, as far as that shows before Spark is started."""
    if not storage.is_local(images):
        return
    if not storage.is_folder(images):
        what = "a file" if storage.exists(images) else "nothing"
        raise UserError(f"--images: expected a folder of images, found {what} at {storage.absolute(images)!r}; "
                        "name a folder that exists on this machine and on every executor")
    if storage.is_empty_folder(images):
        raise UserError(f"--images: expected image files, but {storage.absolute(images)!r} is an empty folder")


def list_files(spark: SparkSession, images: str) -> DataFrame:
    """path (as a person would write it), size (bytes) and modified of every file below the folder.

    Files whose names begin with ``_`` or ``.`` are left out, as Spark does. Nothing but the folder is read, each time
    that the frame is used: cache it. Raises UserError where there is no such folder.
    """
    if storage.is_local(images):
        # Spark's own listing leaves out files of zero bytes without a word.
        root = storage.absolute(images)
        files = spark.range(1, numPartitions=1).mapInArrow(lambda batches: walk(root, batches), spark_ddl(LISTING))
    else:
        files = _list_through_spark(spark, images)
    return files


def with_contents(spark: SparkSession, images: str, files: DataFrame) -> DataFrame:
    """``files`` (with path and size) with the column content (bytes), read by Spark.

    The few hundred bytes that are known of each file go to the executors, never the contents to anywhere else.
    """
    contents = _binary_files(spark, images).select("path", "content")
    filled = contents.join(F.broadcast(files.where("size > 0")), "path")
    empty = files.where("size = 0").withColumn("content", F.lit(b""))  # Spark's source leaves these out
    return filled.unionByName(empty)


def _list_through_spark(spark: SparkSession, images: str) -> DataFrame:
    """LISTING, from the binaryFile source and from the index below it, which alone knows the empty files."""
    files = _binary_files(spark, images)
    names = [(storage.from_spark(unquote(name)),) for name in files.inputFiles()]
    known = files.select(*LISTING.names)
    return spark.createDataFrame(names, "path string").join(known, "path", "left").fillna(0, "size")


def _binary_files(spark: SparkSession, images: str) -> DataFrame:
    # Spark takes these characters for a pattern, even in the name of a folder.
    literal = re.sub(r"([\\\[\]{}*?])", r"\\\1", storage.for_spark(images))
    try:
        files = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(literal)
    except AnalysisException as error:
        raise UserError(f"--images: expected a folder that Spark can read, got {images!r} "
                        f"({str(error).splitlines()[0]})") from None
    return files.select(F.regexp_replace("path", "^file:/+", "/").alias("path"), F.col("length").alias("size"),
                        F.col("modificationTime").alias("modified"), "content")


def walk(root: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The files below ``root`` as Arrow batches of LISTING; runs in one task, since it only reads folders.

    What cannot be looked at (a link to nothing, a folder without permission) is listed too, so that it ends in
    quarantine instead of ending the job.
    """
    for _ in batches:
        found = []
        for path in _visible_files(root, set()):
            found.append(_entry(path))
            if len(found) == LISTING_BATCH:
                yield pa.RecordBatch.from_pylist(found, schema=LISTING)
                found = []
        yield pa.RecordBatch.from_pylist(found, schema=LISTING)


def _entry(path: str) -> dict:
    name = os.fsencode(path).decode(errors="backslashreplace")  # Arrow takes UTF-8 only, file systems any bytes
    try:
        status = os.stat(path)
    except OSError:
        return {"path": name, "size": 0, "modified": None}
    return {"path": name, "size": status.st_size, "modified": datetime.fromtimestamp(status.st_mtime, timezone.utc)}


def _visible_files(folder: str, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link back to a folder that this one lies in
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in found:
        if entry.name.startswith(("_", ".")):
            continue
        if entry.is_dir():
            yield from _visible_files(entry.path, seen | {real})
        else:
            yield entry.path


def check_files(files: int, images: str) -> None:
    """Raise UserError for a folder without files."""
    if not files:
        raise UserError(f"--images: expected image files, but there is none below {images!r}")


def check_apart(images: str, output: str, flag: str) -> None:
    """Raise UserError where one of the two places lies in the other: output would be read as images."""
    one, other = storage.absolute(images) + "/", storage.absolute(output) + "/"
    if one.startswith(other) or other.startswith(one):
        raise UserError(f"{flag}: expected a folder apart from the images in {images!r}, got {output!r}")


@contextmanager
def small_batches(spark: SparkSession, images: str) -> Iterator[None]:
    """Within the block, Spark hands Python workers batches that fit in memory even of the folder's largest file.

    Where Python opens the files itself, batches hold paths only and nothing is changed.
    """
    if storage.is_local(images):
        yield
        return
    largest = list_files(spark, images).agg({"size": "max"}).first()[0]
    with settings(spark, {"spark.sql.execution.arrow.maxRecordsPerBatch": max(1, CONTENT_BATCH_BYTES // max(1, largest))}):
        yield
