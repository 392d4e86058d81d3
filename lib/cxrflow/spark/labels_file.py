"""Find the labels file and the files beside it, and make them readable for Python on the executors."""

from __future__ import annotations

import posixpath
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.catalog.label_formats import all_companions
from cxrflow.catalog.labels import LabelFiles


def find_labels(url: str) -> LabelFiles | None:
    """The labels file and its folder's files, if Python can read them; None if only Spark can.

    Raises UserError if there is no such file.
    """
    try:
        found = storage.exists(url)
    except UserError:  # no package for this file system
        return None
    if not found:
        raise UserError(f"--labels: expected a CSV or Parquet file, found nothing at {url!r}; name an existing file")
    folder = posixpath.dirname(storage.absolute(url))
    return LabelFiles(storage.absolute(url), {name: storage.join(folder, name) for name in storage.names(folder)})


def copy_labels(spark: SparkSession, url: str, folder: Path) -> LabelFiles:
    """Copy the labels file and its companions to this machine through Spark's Hadoop client, as a stream.

    Raises UserError if there is no such file.
    """
    hadoop = spark._jvm.org.apache.hadoop.fs
    source = hadoop.Path(storage.for_spark(url))
    try:
        file_system = source.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
        paths = [source]
        for ending in all_companions():
            pattern = hadoop.Path(source.getParent(), f"*{ending}")
            paths += [status.getPath() for status in file_system.globStatus(pattern)]
        for path in paths:
            file_system.copyToLocalFile(False, path, hadoop.Path(str(folder / path.getName())), True)
    except Py4JJavaError as error:
        reason = str(error.java_exception.getMessage()).splitlines()[0]
        raise UserError(f"--labels: expected a file that Spark can read, got {url!r} ({reason})") from None
    return LabelFiles(
        str(folder / source.getName()), {path.getName(): str(folder / path.getName()) for path in paths[1:]}
    )


def stage_labels(files: LabelFiles, staging: str) -> LabelFiles:
    """Upload copies on this machine to ``staging``, where executors read them."""

    def upload(path: str) -> str:
        target = storage.join(staging, "labels", posixpath.basename(path))
        storage.upload(path, target)
        return target

    return LabelFiles(upload(files.url), {name: upload(path) for name, path in files.beside.items()})
