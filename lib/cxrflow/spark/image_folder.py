"""The images folder, as ingest and predict read it: list the files, read their contents, count the hidden files.

There are two implementations. ``LocalFolder``: Python on the executors opens the files itself. ``SparkFolder``: only
Spark's Hadoop client can read the file system, so listing and contents go through Spark. ``open_folder`` chooses one.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar
from urllib.parse import unquote

import pyarrow as pa
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.schema import spark_ddl
from cxrflow.spark.decode_task import LARGEST_CONTENT
from cxrflow.spark.listing import LISTING, walk
from cxrflow.spark.parquet_parts import Task, read_batches, read_parts, write_parts
from cxrflow.spark.session import registered_slots, settings

Listing = Callable[[], Iterator[pa.RecordBatch]]
"""Yields the rows of LISTING, in any process."""

FILES_PER_TASK = 2000

# Spark hands files to Python in groups of similar size. Each group's size limit is this many times the previous one.
_SIZE_STEP = 8
_SMALLEST_LIMIT = 2**20
# Spark skips files that it cannot read, and the caller notices that they are missing. Tasks get many small files each.
_READ_SETTINGS = {
    "spark.sql.files.ignoreCorruptFiles": True,
    "spark.sql.files.ignoreMissingFiles": True,
    "spark.sql.files.openCostInBytes": 65536,
}


def open_folder(spark: SparkSession, images: str) -> ImageFolder:
    """The implementation that can read ``images``."""
    return (LocalFolder if storage.is_local(images) else SparkFolder)(spark, images)


class ImageFolder(ABC):
    """A folder of image files with all its subfolders."""

    skips_unreadable: ClassVar[bool]
    """Whether ``read_contents`` leaves out files that cannot be read, so that the caller must look for missing rows."""

    def __init__(self, spark: SparkSession, images: str):
        self._spark, self._images = spark, images

    @abstractmethod
    def list_files(self, staging: str) -> Listing:
        """List the files; may write Parquet files below ``staging``. Raises UserError if there is no such folder."""

    @abstractmethod
    def count_hidden(self, visible: int, hidden: int) -> int | None:
        """Number of hidden files; None if it cannot be counted. ``visible`` and ``hidden`` are the listing's counts."""

    @abstractmethod
    def read_contents(self, files: DataFrame, memory: int) -> Iterator[DataFrame]:
        """Make the contents of ``files`` (at least path, size and modified) available to a task.

        Yields frames that together have the rows of ``files``; process each one before the next. If Python cannot open
        the files, the frames have their bytes as the column ``content``, in batches of at most ``memory`` bytes or of
        one file.
        """

    def map_tasks(self, urls: list[str], schema: pa.Schema, task: Task, result: pa.Schema, memory: int) -> list[dict]:
        """Run ``task`` on the files that the Parquet files of ``schema`` list; returns the rows of its ``result``."""
        rows: list[dict] = []
        for frame in self.read_contents(read_parts(self._spark, urls, schema), memory):
            rows += [row.asDict() for row in frame.mapInArrow(task, spark_ddl(result)).collect()]
        return rows


class LocalFolder(ImageFolder):
    """A folder that Python can open on every executor: a local disk or a mount."""

    skips_unreadable = False

    def list_files(self, staging: str) -> Listing:
        """Walk the folder where the listing is needed; nothing is staged."""
        return partial(walk, storage.absolute(self._images))

    def count_hidden(self, visible: int, hidden: int) -> int:
        """The listing has the hidden files."""
        return hidden

    def read_contents(self, files: DataFrame, memory: int) -> Iterator[DataFrame]:
        """Tasks open the files themselves, so this only distributes the rows over the task slots."""
        count = files.count()
        tasks = max(min(count, 2 * registered_slots(self._spark)), count // FILES_PER_TASK)
        yield files.repartition(tasks, "path")

    def map_tasks(self, urls: list[str], schema: pa.Schema, task: Task, result: pa.Schema, memory: int) -> list[dict]:
        """One Spark task per list of files. Rows do not pass through the JVM, which would take longer than decoding."""

        def run(url: str) -> list[dict]:
            return [row for batch in task(read_batches([url])) for row in batch.to_pylist()]

        return self._spark.sparkContext.parallelize(urls, len(urls)).flatMap(run).collect()


class SparkFolder(ImageFolder):
    """A folder that only Spark's Hadoop client can read. Hidden files are not listed."""

    skips_unreadable = True

    def list_files(self, staging: str) -> Listing:
        """Write the listing below ``staging``, where executors read it without Spark."""
        # Spark's file index knows the empty files, which the binaryFile source leaves out.
        files = self._binary_files()
        names = [(storage.from_spark(unquote(name)),) for name in files.inputFiles()]
        facts = files.select("path", "size", "modified")
        listed = self._spark.createDataFrame(names, "path string").join(facts, "path", "left").fillna(0, "size")
        listing = listed.withColumn("hidden", F.lit(False))
        parts = write_parts(listing, storage.join(staging, "listing"), LISTING).collect()
        return partial(read_batches, [part["file"] for part in parts])

    def count_hidden(self, visible: int, hidden: int) -> int | None:
        """The files that Hadoop counts and Spark does not list."""
        path = self._spark._jvm.org.apache.hadoop.fs.Path(storage.for_spark(self._images))
        try:
            file_system = path.getFileSystem(self._spark.sparkContext._jsc.hadoopConfiguration())
            return file_system.getContentSummary(path).getFileCount() - visible
        except Py4JError:
            return None

    def read_contents(self, files: DataFrame, memory: int) -> Iterator[DataFrame]:
        """Read the files through Spark, in groups of similar size.

        Spark's default of 10,000 rows per batch would be gigabytes of X-rays. It limits batches by rows only, so with
        files of similar size in a group, the limit holds for large files and small ones still travel in large batches.
        """
        facts = files.agg(F.max("size").alias("largest"), F.min("modified").alias("oldest")).first()
        if facts["largest"] > LARGEST_CONTENT:
            yield files.where(F.col("size") > LARGEST_CONTENT).withColumn("content", F.lit(None).cast("binary"))
        above, limit = -1, _SMALLEST_LIMIT
        while above < min(facts["largest"], LARGEST_CONTENT):
            group = files.where((F.col("size") > above) & (F.col("size") <= limit))
            records = max(1, memory // limit)
            with settings(self._spark, {"spark.sql.execution.arrow.maxRecordsPerBatch": records, **_READ_SETTINGS}):
                yield self._with_contents(group, above, limit, facts["oldest"])
            above, limit = limit, limit * _SIZE_STEP

    def _with_contents(self, files: DataFrame, above: int, limit: int, oldest: datetime | None) -> DataFrame:
        """``files`` with the column ``content``, in bytes.

        The listing is broadcast to the executors, so contents never leave the task that reads them. Files of other
        sizes, and files older than the oldest one in the listing, are not opened.
        """
        contents = self._binary_files().where((F.col("size") > above) & (F.col("size") <= limit))
        if oldest is not None:
            # A day of tolerance, because the timestamp on the driver has no time zone.
            contents = contents.where(F.col("modified") >= F.lit(oldest - timedelta(days=1)))
        filled = contents.select("path", "content").join(F.broadcast(files.where("size > 0")), "path")
        empty = files.where("size = 0").withColumn("content", F.lit(b""))  # the binaryFile source leaves these out
        return filled.unionByName(empty)

    def _binary_files(self) -> DataFrame:
        # Spark treats these characters as a pattern, even in the name of a folder.
        literal = re.sub(r"([\\\[\]{}*?])", r"\\\1", storage.for_spark(self._images))
        try:
            files = self._spark.read.format("binaryFile").option("recursiveFileLookup", True).load(literal)
        except AnalysisException as error:
            raise UserError(
                f"--images: expected a folder that Spark can read, got {self._images!r} ({str(error).splitlines()[0]})"
                "; choose another folder"
            ) from None
        except Py4JJavaError as error:
            if not re.search("No FileSystem for scheme|ClassNotFoundException", str(error.java_exception)):
                raise
            raise UserError(
                f"--images: expected a folder that Spark can read, but its Hadoop has no client for {self._images!r}; "
                "for S3, write s3a:// and start Spark with --packages org.apache.hadoop:hadoop-aws:3.3.4 (the version "
                "of Spark's own Hadoop)"
            ) from None
        return files.select(
            F.regexp_replace("path", "^file:/+", "/").alias("path"),
            F.col("length").alias("size"),
            F.col("modificationTime").alias("modified"),
            "content",
        )
