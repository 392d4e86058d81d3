"""The same content under several names must end in one split: otherwise the test split holds what training has seen."""

from __future__ import annotations

from contextlib import ExitStack

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from cxrflow.schema import QUARANTINE
from cxrflow.spark.session import cached


def settle_splits(fresh: DataFrame, kept: DataFrame, caches: ExitStack) -> DataFrame | None:
    """What has to change of the splits of newly decoded samples so that no content is in two of them.

    ``fresh``: path, sha256, patient_id, split, fixed, shard, row of the new samples. ``kept``: path, sha256, patient_id,
    split of the rows that the table has already, which never move.

    Patients that share a content are taken as one: they go where the first of them by key goes, or the first of
    those whose split is fixed. Where two fixed ones are in different splits, the content stays in that of the row
    which was there before, or is first by path, and the others cannot.

    Returns shard, row, split and final_split (null for a row that cannot stay) of the samples that change, few as a
    rule, or None where none does. The frame lives as long as ``caches`` is open.
    """
    columns = ["path", "sha256", "patient_id", "split", "fixed"]
    everyone = fresh.select(*columns).unionByName(kept.withColumn("fixed", F.lit(True)).select(*columns))
    shared = caches.enter_context(cached(
        everyone.groupBy("sha256").agg(F.collect_set("patient_id").alias("patients")).where(F.size("patients") > 1)
        .select("sha256", F.explode("patients").alias("patient_id"))))
    if shared.isEmpty():
        return None
    groups = _groups(shared, caches)
    leader = F.struct(~F.col("fixed"), F.col("patient_id"))
    group_splits = everyone.join(groups, "patient_id").groupBy("group").agg(F.min_by("split", leader).alias("group_split"))
    settled = fresh.join(groups.join(group_splits, "group"), "patient_id", "left").withColumn(
        "settled", F.when(F.col("fixed"), F.col("split")).otherwise(F.coalesce("group_split", "split")))
    final = settled.join(_owners(settled, kept, shared), "sha256", "left").withColumn(
        "final_split", F.when(F.coalesce("owner", "settled") == F.col("settled"), F.col("settled")))
    changed = final.where(~F.col("final_split").eqNullSafe(F.col("split")))
    return caches.enter_context(cached(changed.select("shard", "row", "split", "final_split")))


def _groups(shared: DataFrame, caches: ExitStack) -> DataFrame:
    """(patient_id, group) of patients who share a content, also over others: the first key of all those joined.

    Each round lets every patient take the first key among those it shares a content with; two or three rounds are
    usual, as many as the longest chain has links at worst.
    """
    groups = shared.select("patient_id", F.col("patient_id").alias("group")).distinct()
    while True:
        of_content = shared.join(groups, "patient_id").groupBy("sha256").agg(F.min("group").alias("group"))
        nearer = shared.join(of_content, "sha256").groupBy("patient_id").agg(F.min("group").alias("group"))
        # Cut off from the plan of the rounds before, which would double with each.
        nearer = caches.enter_context(cached(nearer)).localCheckpoint()
        if nearer.exceptAll(groups).isEmpty():
            return nearer
        groups = nearer


def _owners(settled: DataFrame, kept: DataFrame, shared: DataFrame) -> DataFrame:
    """(sha256, owner): the split that a content shared by several patients stays in."""
    rows = settled.select("sha256", F.col("settled").alias("split"), F.struct(F.lit(1), "path").alias("rank")).unionByName(
        kept.select("sha256", "split", F.struct(F.lit(0), "path").alias("rank")))
    return rows.join(shared, "sha256", "left_semi").groupBy("sha256").agg(F.min_by("split", "rank").alias("owner"))


def with_final_splits(decoded: DataFrame, changes: DataFrame | None) -> DataFrame:
    """The newly decoded samples in the split that they end in; null where they cannot stay."""
    if changes is None:
        return decoded
    final = changes.select("shard", "row", "final_split", F.lit(True).alias("changes"))
    return decoded.join(final, ["shard", "row"], "left").withColumn(
        "split", F.when(F.col("changes"), F.col("final_split")).otherwise(F.col("split")))


def refusals(fresh: DataFrame) -> DataFrame:
    """The samples that cannot stay, as rows of quarantine."""
    return fresh.where("split is null").withColumn("reason", F.lit("in_another_split")).withColumn(
        "detail", F.lit("the same content is in another split, under another patient whose split is fixed")
    ).select(*QUARANTINE.names)
