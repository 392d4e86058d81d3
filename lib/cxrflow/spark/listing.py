"""The image files below a folder: by Python where it can read it, otherwise by Spark."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote

import pyarrow as pa
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.schema import SOURCE, spark_ddl
from cxrflow.spark.decode_task import LARGEST_CONTENT
from cxrflow.spark.session import settings

LISTING = pa.schema(
    [
        *(field for field in SOURCE if field.name != "sha256"),
        pa.field("hidden", pa.bool_()),  # the name, or a folder's above it, begins with _ or .
    ]
)
LISTING_BATCH = 10_000

# Files that come through the JVM are handed to Python in parts of similar size, each this many times the one before.
_SIZE_STEP = 8
_SMALLEST_PART = 2**20
# What Spark cannot read is left out instead of ending the job, and is missed at the end. Small files are many to a task.
_READING = {
    "spark.sql.files.ignoreCorruptFiles": True,
    "spark.sql.files.ignoreMissingFiles": True,
    "spark.sql.files.openCostInBytes": 65536,
}


def check_images(images: str) -> None:
    """Raise UserError where the folder is missing or empty, as far as that shows before Spark is started."""
    if not storage.is_local(images):
        return
    if not storage.is_folder(images):
        what = "a file" if storage.exists(images) else "nothing"
        raise UserError(
            f"--images: expected a folder of images, found {what} at {storage.absolute(images)!r}; "
            "name a folder that exists on this machine and on every executor"
        )
    if storage.is_empty_folder(images):
        raise UserError(f"--images: expected image files, but {storage.absolute(images)!r} is an empty folder")


def list_files(spark: SparkSession, images: str) -> DataFrame:
    """LISTING. The folder is read each time that the frame is used: cache it.

    Where only Spark can read the folder, hidden files are left out. Raises UserError where there is no such folder.
    """
    if storage.is_local(images):
        root = storage.absolute(images)
        return spark.range(1, numPartitions=1).mapInArrow(lambda _: walk(root), spark_ddl(LISTING))
    # From the binaryFile source and from the index below it, which alone knows the empty files.
    files = _binary_files(spark, images)
    names = [(storage.from_spark(unquote(name)),) for name in files.inputFiles()]
    known = files.select("path", "size", "modified")
    listed = spark.createDataFrame(names, "path string").join(known, "path", "left").fillna(0, "size")
    return listed.withColumn("hidden", F.lit(False))


def count_hidden(spark: SparkSession, images: str, visible: int) -> int | None:
    """Files that Hadoop's own count of the folder has more than Spark lists; None where it cannot count."""
    place = spark._jvm.org.apache.hadoop.fs.Path(storage.for_spark(images))
    try:
        system = place.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
        return system.getContentSummary(place).getFileCount() - visible
    except Py4JError:
        return None


def with_contents(spark: SparkSession, images: str, files: DataFrame, memory: int) -> Iterator[DataFrame]:
    """``files`` (with path, size and modified) with their bytes as the column ``content``, read by Spark: as one or
    several frames to run one after the other, while this iterates.

    Spark hands them to Python in batches of at most ``memory`` bytes, or of one file: its default of 10,000 files would
    be gigabytes of X-rays. Batches are counted in files, so files of one frame are of similar size, and small ones
    still travel many at a time.
    """
    ends = files.agg(F.max("size").alias("largest"), F.min("modified").alias("oldest")).first()
    if ends["largest"] > LARGEST_CONTENT:
        yield files.where(F.col("size") > LARGEST_CONTENT).withColumn("content", F.lit(None).cast("binary"))
    floor, ceiling = -1, _SMALLEST_PART
    while floor < min(ends["largest"], LARGEST_CONTENT):
        part = files.where((F.col("size") > floor) & (F.col("size") <= ceiling))
        records = max(1, memory // ceiling)
        with settings(spark, {"spark.sql.execution.arrow.maxRecordsPerBatch": records, **_READING}):
            yield _with_contents(spark, images, part, floor, ceiling, ends["oldest"])
        floor, ceiling = ceiling, ceiling * _SIZE_STEP


def _with_contents(spark: SparkSession, images: str, files: DataFrame, floor: int, ceiling: int, oldest) -> DataFrame:
    """``files`` with the column content (bytes), read by Spark.

    The few hundred bytes that are known of each file go to the executors, never the contents to anywhere else. Files
    of other sizes, and those older than the oldest one wanted, are not opened.
    """
    contents = _binary_files(spark, images).where((F.col("size") > floor) & (F.col("size") <= ceiling))
    if oldest is not None:
        # A day's grace, since the time on the driver has no zone.
        contents = contents.where(F.col("modified") >= F.lit(oldest - timedelta(days=1)))
    filled = contents.select("path", "content").join(F.broadcast(files.where("size > 0")), "path")
    empty = files.where("size = 0").withColumn("content", F.lit(b""))  # Spark's source leaves these out
    return filled.unionByName(empty)


def _binary_files(spark: SparkSession, images: str) -> DataFrame:
    # Spark takes these characters for a pattern, even in the name of a folder.
    literal = re.sub(r"([\\\[\]{}*?])", r"\\\1", storage.for_spark(images))
    try:
        files = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(literal)
    except AnalysisException as error:
        raise UserError(
            f"--images: expected a folder that Spark can read, got {images!r} ({str(error).splitlines()[0]})"
        ) from None
    except Py4JJavaError as error:
        if not re.search("No FileSystem for scheme|ClassNotFoundException", str(error.java_exception)):
            raise
        raise UserError(
            f"--images: expected a folder that Spark can read, but its Hadoop has no client for {images!r}; for S3, "
            "write s3a:// and start Spark with --packages org.apache.hadoop:hadoop-aws:3.3.4 (the version of "
            "Spark's own Hadoop)"
        ) from None
    return files.select(
        F.regexp_replace("path", "^file:/+", "/").alias("path"),
        F.col("length").alias("size"),
        F.col("modificationTime").alias("modified"),
        "content",
    )


def walk(root: str) -> Iterator[pa.RecordBatch]:
    """LISTING of the files below the local folder ``root``, hidden ones as well.

    What cannot be looked at (a link to nothing, a folder without permission) is listed too, so that it ends in
    quarantine instead of ending the job. Spark's own listing leaves out files of zero bytes without a word.
    """
    found = []
    for path in _files(root, set()):
        found.append(_entry(root, path))
        if len(found) == LISTING_BATCH:
            yield pa.RecordBatch.from_pylist(found, schema=LISTING)
            found = []
    yield pa.RecordBatch.from_pylist(found, schema=LISTING)


def _entry(root: str, path: str) -> dict:
    below = path.removeprefix(root.rstrip("/") + "/").split("/")
    hidden = path != root and any(name.startswith(("_", ".")) for name in below)
    name = os.fsencode(path).decode(errors="backslashreplace")  # Arrow takes UTF-8 only, file systems any bytes
    try:
        status = os.stat(path)
    except OSError:
        return {"path": name, "size": 0, "modified": None, "hidden": hidden}
    try:
        modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
    except (OverflowError, ValueError):  # a year that no calendar has
        modified = None
    return {"path": name, "size": status.st_size, "modified": modified, "hidden": hidden}


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself, for example
        return False


def _files(folder: str, seen: set[str]) -> Iterator[str]:
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
        if _is_folder(entry):
            yield from _files(entry.path, seen | {real})
        else:
            yield entry.path


def check_apart(images: str, output: str, flag: str) -> None:
    """Raise UserError where one of the two places lies in the other: output would be read as images."""
    one, other = storage.absolute(images) + "/", storage.absolute(output) + "/"
    if one.startswith(other) or other.startswith(one):
        raise UserError(f"{flag}: expected a folder apart from the images in {images!r}, got {output!r}")
