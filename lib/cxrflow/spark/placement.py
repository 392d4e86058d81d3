"""Which label, patient and split each file has, decided by Spark before any file is opened."""

from __future__ import annotations

from contextlib import ExitStack

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow import storage
from cxrflow.config import SPLITS, IngestConfig, split_fractions
from cxrflow.errors import UserError
from cxrflow.labels import patient_of
from cxrflow.spark.session import cached


def label_files(spark: SparkSession, files: DataFrame, config: IngestConfig) -> DataFrame:
    """Add label (null where the labels file has none), patient_id and given_split (null where the labels file names
    none) to every file. Raises UserError for a labels file that is not as it should be."""
    labelled = _with_labels(spark, files, config)
    rule, root = config.patients, storage.absolute(config.images)

    @F.pandas_udf("string")
    def patient_key(paths: pd.Series) -> pd.Series:
        return paths.map(lambda path: patient_of(path, rule, root))

    return labelled.withColumn("patient_id", F.coalesce("given_patient", patient_key("path"))).drop("given_patient")


def deal_splits(files: DataFrame, config: IngestConfig, placed: DataFrame, thresholds: dict[str, list[float]],
                caches: ExitStack) -> tuple[DataFrame, dict[str, list[float]]]:
    """Add split, and fixed (whether it may no longer change), to labelled files; all of a patient go to one.

    A patient that the table has already (``placed``: patient_id, split) stays where it is. One whose split the labels
    file names goes there. Any other is dealt by a hash of its key, apart for each label. For a label without
    ``thresholds`` they are set so that the share of patients below each is exact for these files; the table keeps
    them, and so the deal of every patient to come.

    Returns the files and all thresholds, {label: [where train ends, where val ends]}; the frame lives as long as
    ``caches`` is open. Raises UserError where given splits contradict each other or the table.
    """
    patients = caches.enter_context(cached(files.where("label is not null").groupBy("patient_id").agg(
        F.min("label").alias("patient_label"), F.collect_set("given_split").alias("given")
    ).withColumn("place", _place(config.seed)).join(
        placed.withColumnRenamed("split", "placed"), "patient_id", "left")))
    _check_given_splits(patients)
    thresholds = {**_thresholds(patients, split_fractions(config.split)), **thresholds}
    fixed = F.coalesce("placed", F.element_at("given", 1))
    if thresholds:
        train_end, val_end = (_by_label(thresholds, which) for which in (0, 1))
        dealt = F.when(F.col("place") < train_end, "train").when(F.col("place") < val_end, "val").otherwise("test")
    else:  # no label anywhere
        dealt = F.lit(None).cast("string")
    splits = patients.select("patient_id", F.coalesce(fixed, dealt).alias("split"), fixed.isNotNull().alias("fixed"))
    return files.join(splits, "patient_id", "left").drop("given_split"), thresholds


def _place(seed: int):
    """Where the patient of the column patient_id lies between 0 and 1: the first 12 hexadecimal digits of the SHA-256
    of "seed:patient_id", over 2^48. It does not depend on any other patient, so it stays when data are added."""
    digest = F.sha2(F.concat(F.lit(f"{seed}:"), F.col("patient_id")), 256)
    return F.conv(F.substring(digest, 1, 12), 16, 10).cast("double") / F.lit(2.0**48)


def _with_labels(spark: SparkSession, files: DataFrame, config: IngestConfig) -> DataFrame:
    if config.labels is None:
        return files.select("*", F.element_at(F.split("path", "/"), -2).alias("label"),
                            F.lit(None).cast("string").alias("given_patient"),
                            F.lit(None).cast("string").alias("given_split"))
    return files.join(read_labels(spark, config), "path", "left")


def read_labels(spark: SparkSession, config: IngestConfig) -> DataFrame:
    """The labels file: path (made absolute), label, given_patient, given_split; one row a path.

    Raises UserError where the file is missing, lacks a column, names an unknown split or contradicts itself.
    """
    if storage.is_local(config.labels) and not storage.exists(config.labels):
        raise UserError(f"--labels: expected a CSV or Parquet file, found nothing at {config.labels!r}")
    url = storage.for_spark(config.labels)
    table = spark.read.parquet(url) if url.endswith(".parquet") else spark.read.csv(url, header=True)
    missing = {"path", "label"} - set(table.columns)
    if missing:
        raise UserError(f"--labels: expected the columns path and label, and optionally patient_id and split; "
                        f"{config.labels!r} has {', '.join(table.columns)}")

    def text(column: str):
        found = F.trim(F.col(column).cast("string")) if column in table.columns else F.lit(None).cast("string")
        return F.nullif(found, F.lit(""))  # an empty cell, as other tools write it

    # The same forms that storage.absolute gives the files' own paths.
    path = F.regexp_replace(F.regexp_replace(text("path"), "^file:/+", "/"), "^dbfs:/", "/dbfs/")
    root = storage.absolute(config.images)
    labels = table.select(
        F.when(path.rlike("^(/|[A-Za-z][A-Za-z0-9+.-]+:/)"), path)
        .otherwise(F.concat(F.lit(root + "/"), path)).alias("path"),
        text("label").alias("label"),
        text("patient_id").alias("given_patient"),
        text("split").alias("given_split"),
    ).distinct()
    strange = labels.where(~F.col("given_split").isin(*SPLITS)).first()
    if strange:
        raise UserError(f"--labels: expected the split to be one of {', '.join(SPLITS)} or empty, "
                        f"got {strange['given_split']!r} for {strange['path']!r}")
    twice = labels.groupBy("path").count().where("count > 1").first()
    if twice:
        raise UserError(f"--labels: expected one line a path, got {twice['count']} different ones for {twice['path']!r}")
    return labels


def _check_given_splits(patients: DataFrame) -> None:
    torn = patients.where(F.size("given") > 1).first()
    if torn:
        raise UserError(f"--labels: expected each patient in one split, but patient {torn['patient_id']!r} is in "
                        f"{' and '.join(sorted(torn['given']))}; give all images of a patient the same split")
    moved = patients.where((F.size("given") > 0) & (F.element_at("given", 1) != F.col("placed"))).first()
    if moved:
        raise UserError(f"--labels: expected patient {moved['patient_id']!r} in {moved['placed']}, where the table has it, "
                        f"but the labels file says {moved['given'][0]}; a patient never changes its split: rebuild the "
                        "table with --overwrite if it must")


def _thresholds(patients: DataFrame, fractions: dict[str, float]) -> dict[str, list[float]]:
    """Per label, the quantiles of the patients' places that cut them into the wanted shares."""
    train_end = fractions["train"]
    val_end = train_end + fractions["val"]
    rows = patients.groupBy("patient_label").agg(
        F.percentile("place", F.array(F.lit(train_end), F.lit(min(val_end, 1.0)))).alias("quantiles")).collect()

    def cut(share: float, quantile: float) -> float:
        return 0.0 if share <= 0 else 1.0 if share >= 1 - 1e-9 else quantile

    return {row["patient_label"]: [cut(train_end, row["quantiles"][0]), cut(val_end, row["quantiles"][1])]
            for row in rows}


def _by_label(thresholds: dict[str, list[float]], which: int):
    """The column that holds, for each patient's label, its first or second threshold."""
    pairs = [F.lit(value) for label, limits in thresholds.items() for value in (label, limits[which])]
    return F.create_map(*pairs)[F.col("patient_label")]
