"""The image files below a folder, as a Spark DataFrame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow import storage
from cxrflow.errors import UserError
from cxrflow.spark.session import settings

# Bytes of files that Spark hands a Python worker at a time where the files come through the JVM. Its default of
# 10,000 files at a time would be gigabytes of full-size X-rays.
CONTENT_BATCH_BYTES = 64 * 2**20


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


def list_files(spark: SparkSession, images: str, content: bool = False) -> DataFrame:
    """path (as a person would write it), size (bytes) and modified of every file below the folder; with
    ``content`` also the file's bytes. Without it nothing is read but the folder's listing.

    Raises UserError where there is no such folder or no file in it.
    """
    # Spark takes these characters for a pattern, even in the name of a folder.
    literal = re.sub(r"([\\\[\]{}*?])", r"\\\1", storage.for_spark(images))
    try:
        files = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(literal)
    except AnalysisException as error:
        raise UserError(f"--images: expected a folder that Spark can read, got {images!r} "
                        f"({str(error).splitlines()[0]})") from None
    files = files.select(
        F.regexp_replace("path", "^file:/+", "/").alias("path"),
        F.col("length").alias("size"),
        F.col("modificationTime").alias("modified"),
        *(["content"] if content else []),
    )
    if files.select("path").isEmpty():
        raise UserError(f"--images: expected image files, but there is none below {images!r}")
    return files


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
