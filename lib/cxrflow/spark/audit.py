"""What a person should know of a table before a figure is trusted: copies, leaks, balance, sizes."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from cxrflow.images.similar import HASH_BITS, NEAR_BITS
from cxrflow.spark.session import cached

EXAMPLES = 10
_FLAT = "0" * (HASH_BITS // 4)
_BAND = 4  # hexadecimal digits


def audit(samples: DataFrame) -> dict:
    """Figures of a whole table, as plain data; ``samples`` has path, sha256, label, patient_id, split, phash,
    source_height, source_width, source_format, source_bits and note.

    - duplicates: contents under several names, and files that have them
    - conflicting_labels: contents with several labels
    - near_duplicates: pairs of different content that look alike, see images.similar; those across splits matter
    - unnamed: whether no file name tells its patient, so that each file is one of its own
    - patients, sizes (smallest, median and largest side, in pixels), bits, formats, notes: files of each

    Raises RuntimeError where a content or a patient is in two splits, which ingest never leaves.
    """
    contents = samples.groupBy("sha256").agg(
        F.count("*").alias("files"), F.countDistinct("label").alias("labels"), F.countDistinct("split").alias("splits"),
        F.slice(F.sort_array(F.collect_list("path")), 1, EXAMPLES).alias("paths")).where("files > 1")
    totals = contents.agg(F.count("*").alias("contents"), F.coalesce(F.sum("files"), F.lit(0)).alias("files"),
                          F.count(F.when(F.col("labels") > 1, 1)).alias("conflicting"),
                          F.count(F.when(F.col("splits") > 1, 1)).alias("torn")).first()
    patients = samples.groupBy("patient_id").agg(F.collect_set("split").alias("splits"))
    torn = patients.where(F.size("splits") > 1).count()
    if torn or totals["torn"]:
        raise RuntimeError(f"{totals['torn']} contents and {torn} patients are in more than one split; nothing was "
                           "committed. Ingest should never leave this: please report it")
    conflicting = contents.where("labels > 1")
    return {
        "duplicates": {"contents": totals["contents"], "files": totals["files"], "examples": _paths(contents)},
        "conflicting_labels": {"contents": totals["conflicting"], "examples": _paths(conflicting)},
        "near_duplicates": _near_duplicates(samples),
        "unnamed": samples.where("patient_id != path").isEmpty(),
        "patients": _counts(patients.select(F.element_at("splits", 1).alias("split")), "split"),
        "sizes": _sizes(samples),
        "bits": _counts(samples, "source_bits"), "formats": _counts(samples, "source_format"),
        "notes": _counts(samples.where("note != ''"), "note"),
    }


def _paths(contents: DataFrame) -> list[list[str]]:
    return [row["paths"] for row in contents.orderBy("sha256").limit(EXAMPLES).collect()]


def _counts(samples: DataFrame, column: str) -> dict[str, int]:
    """Files of each value; the commonest of them where there are many."""
    rows = samples.groupBy(column).count().orderBy(F.desc("count"), column).limit(100).collect()
    return {str(row[column]): row["count"] for row in rows}


def _sizes(samples: DataFrame) -> dict[str, list[int]]:
    sides = {"height": "source_height", "width": "source_width"}
    row = samples.agg(*(F.percentile(column, F.array(F.lit(0.0), F.lit(0.5), F.lit(1.0))).alias(side)
                        for side, column in sides.items())).first()
    return {side: [round(value) for value in row[side]] for side in sides}


def _near_duplicates(samples: DataFrame) -> dict:
    """Pairs whose hashes differ in at most NEAR_BITS bits. Pairs are looked for among images that agree in one of 16
    parts of the hash: all of up to 15 bits are found, and nearly all of the rest."""
    images = samples.where(F.col("phash") != _FLAT).groupBy("phash", "sha256").agg(
        F.min("path").alias("path"), F.min("split").alias("split"), F.min("patient_id").alias("patient_id"))
    bands = F.explode(F.array(*(F.concat(F.lit(f"{start}:"), F.substring("phash", start + 1, _BAND))
                                for start in range(0, HASH_BITS // 4, _BAND))))
    one = images.select(bands.alias("band"), *(F.col(name).alias(f"one_{name}") for name in images.columns))
    two = images.select(bands.alias("band"), *(F.col(name).alias(f"two_{name}") for name in images.columns))
    pairs = one.join(two, "band").where("one_sha256 < two_sha256").drop("band").withColumn(
        "bits", _different_bits("one_phash", "two_phash")).where(F.col("bits") <= NEAR_BITS).distinct()
    pairs = pairs.select("one_path", "two_path", "bits", (F.col("one_split") != F.col("two_split")).alias("across_splits"),
                         (F.col("one_patient_id") != F.col("two_patient_id")).alias("across_patients"))
    with cached(pairs):
        row = pairs.agg(F.count("*").alias("pairs"), *(F.count(F.when(F.col(column), 1)).alias(column)
                                                       for column in ("across_splits", "across_patients"))).first()
        worst = pairs.orderBy(F.desc("across_splits"), F.desc("across_patients"), "bits", "one_path", "two_path")
        return {**row.asDict(), "examples": [[pair["one_path"], pair["two_path"]] for pair in worst.limit(EXAMPLES).collect()]}


def _different_bits(one: str, two: str) -> Column:
    def part(column: str, start: int) -> Column:
        return F.conv(F.substring(column, start + 1, 8), 16, 10).cast("bigint")  # 32 bits: no sign to mind

    return sum((F.bit_count(part(one, start).bitwiseXOR(part(two, start))) for start in range(0, HASH_BITS // 4, 8)),
               F.lit(0))
