"""Image files to a table: list, place, decode on the executors, even out the shards, commit."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import uuid
from contextlib import ExitStack

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow import storage
from cxrflow.config import SPLITS, IngestConfig, split_fractions, to_dict
from cxrflow.errors import UserError
from cxrflow.manifest import Manifest, Shard, write_manifest
from cxrflow.schema import QUARANTINE, spark_ddl
from cxrflow.shards import checksum, read_shard, write_shard
from cxrflow.spark.decode import OUTCOME, DecodeTask
from cxrflow.spark.listing import check_apart, check_files, check_images, list_files, small_batches, with_contents
from cxrflow.spark.placement import place_files
from cxrflow.spark.session import cached, settings, task_slots

log = logging.getLogger(__name__)

# Aimed at for one decoding task: long enough to pay its start, short enough to balance and to try again.
TASK_BYTES = 256 * 2**20


def check_ingest(config: IngestConfig) -> None:
    """Raise UserError for what shows to be wrong before Spark is started."""
    check_images(config.images)
    check_apart(config.images, config.table, "--table")
    if set("#?") & set(config.table):
        raise UserError(f"--table: expected a path without # and ?, which Petastorm takes for parts of a URL; "
                        f"got {config.table!r}")
    if config.labels and storage.is_local(config.labels) and not storage.exists(config.labels):
        raise UserError(f"--labels: expected a CSV or Parquet file, found nothing at {config.labels!r}")
    if storage.exists(storage.join(config.table, "manifest.json")):
        if not config.overwrite:
            raise UserError(f"--table: expected a new folder, but {config.table!r} holds a table already; "
                            "name another folder, or replace the table with --overwrite")
    elif storage.exists(config.table) and not storage.is_empty_folder(config.table):
        if not storage.exists(storage.join(config.table, "_staging")):  # left by an ingest that died
            raise UserError(f"--table: expected a new or empty folder, but {config.table!r} holds something else, "
                            "which is left alone; name another folder")


def ingest(spark: SparkSession, config: IngestConfig) -> dict:
    """Decode every file below ``config.images`` into the table ``config.table``.

    Every file ends either as a row of samples or as a row of quarantine with its reason. What belongs to the table
    is what its manifest names, and that is replaced at once at the end; a run that dies before leaves the old one.

    Returns files, samples, quarantined (by reason), counts (by split and label), patients (by split), shards and
    seconds.
    Raises UserError for bad input, RuntimeError where the counts do not reconcile.
    """
    started = time.monotonic()
    check_ingest(config)
    slots = task_slots(spark)
    # A listing is small: what Spark would open files and split shuffles for costs more than the work itself.
    listing = {"spark.sql.files.openCostInBytes": 4096, "spark.sql.shuffle.partitions": max(8, 2 * slots)}
    with settings(spark, listing), small_batches(spark, config.images), ExitStack() as caches:
        files = caches.enter_context(cached(list_files(spark, config.images)))
        total = files.agg(F.count("*").alias("files"), F.sum("size").alias("bytes")).first()
        check_files(total["files"], config.images)
        log.info("%s files, %.1f MB, below %s", f"{total['files']:,}", total["bytes"] / 1e6, config.images)
        placed, thresholds = place_files(spark, files, config, caches)
        staging = storage.join(config.table, "_staging", uuid.uuid4().hex)
        try:
            outcomes = _decode_all(spark, config, placed, total, staging)
            manifest = _manifest(spark, config, outcomes, staging, thresholds)
            _reconcile(total["files"], manifest)
            _commit(config.table, staging, manifest)
            patients = _patients(placed, outcomes)
            _say_end(config, manifest)
        finally:
            storage.remove(staging)
            for folder in (storage.join(config.table, "_staging"), config.table):
                if storage.is_empty_folder(folder):
                    storage.remove(folder)
    return {
        "files": total["files"], "samples": manifest.rows(), "quarantined": sum(manifest.quarantined.values()),
        "reasons": manifest.quarantined, "counts": manifest.counts(), "patients": patients,
        "shards": len(manifest.shards),
        "table": storage.absolute(config.table), "seconds": round(time.monotonic() - started, 2),
    }


def _say_end(config: IngestConfig, manifest: Manifest) -> None:
    """What a person should see of the table, and what looks wrong with it."""
    counts = manifest.counts()
    for split in SPLITS:
        shown = ", ".join(f"{label} {rows:,}" for label, rows in counts.get(split, {}).items()) or "no images"
        log.info("%-5s  %s", split, shown)
        if split not in counts and split_fractions(config.split)[split] > 0:
            log.warning("The split %s is empty: too few patients for a label. Are the labels right? A label is the name "
                        "of the folder that directly holds the file, or comes from --labels.", split)
    if manifest.quarantined:
        reasons = ", ".join(f"{reason} {files:,}" for reason, files in manifest.quarantined.items())
        log.warning("%s files could not be used (%s): see %s", f"{sum(manifest.quarantined.values()):,}", reasons,
                    storage.join(config.table, "quarantine"))


def _patients(placed: DataFrame, outcomes: DataFrame) -> dict[str, int]:
    """Patients of each split, of whom there is a sample; warns where no two files seem to share one."""
    samples = placed.join(outcomes.where("shard is not null").select("path"), "path", "left_semi")
    rows = samples.groupBy("split").agg(
        F.countDistinct("patient_id").alias("patients"), F.count("*").alias("files"),
        F.count(F.when(F.col("patient_id") == F.col("path"), 1)).alias("alone")).orderBy("split").collect()
    if all(row["alone"] == row["files"] for row in rows):
        log.warning("No file name tells its patient, so each file counts as a patient of its own. If patients have "
                    "several images, name the rule with --patients: otherwise test figures flatter the model.")
    return {row["split"]: row["patients"] for row in rows}


def _decode_all(spark: SparkSession, config: IngestConfig, placed: DataFrame, total, staging: str) -> DataFrame:
    """Decode every file, leaving shards below ``staging``; returns the outcomes, one row a file."""
    if storage.is_local(config.images):
        # A hash of the path spreads labels and sizes evenly over tasks and mixes them within each.
        work = placed.repartition(_tasks(spark, config, total), "path").sortWithinPartitions(F.xxhash64("path"))
    else:
        # Only Spark can read the files, so their bytes come through the JVM, once.
        work = with_contents(spark, config.images, placed)
    task = DecodeTask(staging, config.height, config.width, config.shard_rows)
    index = storage.for_spark(storage.join(staging, "outcomes"))
    work.mapInArrow(task, spark_ddl(OUTCOME)).write.parquet(index)
    return spark.read.parquet(index)


def _tasks(spark: SparkSession, config: IngestConfig, total) -> int:
    """Decoding tasks: enough to balance, few enough that most shards are filled within one task."""
    wanted = min(math.ceil(total["bytes"] / TASK_BYTES), total["files"] // (8 * config.shard_rows))
    return max(1, min(total["files"], max(task_slots(spark), wanted)))


def _manifest(spark: SparkSession, config: IngestConfig, outcomes: DataFrame, staging: str,
              thresholds: dict[str, list[float]]) -> Manifest:
    """What the table will hold, read off the outcomes; short shards are evened out on the way. Paths are those below
    ``staging``."""
    shards = _even_out(spark, config, staging, _shards(outcomes))
    refused = outcomes.where("reason is not null")
    refused.select(*QUARANTINE.names).coalesce(1).write.parquet(
        storage.for_spark(storage.join(staging, "quarantine")))
    quarantine = [path.removeprefix(staging + "/") for path in
                  storage.files(storage.join(staging, "quarantine"), ".parquet")]
    refused = refused.groupBy("reason").count().orderBy("reason")
    return Manifest(
        quarantine=quarantine,
        height=config.height, width=config.width, labels=sorted({label for shard in shards for label in shard.labels}),
        shards=shards, quarantined={row["reason"]: row["count"] for row in refused.collect()},
        config=to_dict(config), split_thresholds=thresholds)


def _shards(outcomes: DataFrame) -> list[Shard]:
    """The shards that committed tasks wrote."""
    rows = outcomes.where("shard is not null").groupBy("shard", "split", "label").agg(
        F.count("*").alias("rows"), F.bit_xor("sample_id").alias("ids")).collect()
    parts: dict[tuple[str, str], list] = {}
    for row in rows:
        parts.setdefault((row["shard"], row["split"]), []).append(row)
    return [Shard(path=path, split=split, rows=sum(row["rows"] for row in found),
                  labels={row["label"]: row["rows"] for row in found}, checksum=checksum([row["ids"] for row in found]))
            for (path, split), found in parts.items()]


def _even_out(spark: SparkSession, config: IngestConfig, staging: str, shards: list[Shard]) -> list[Shard]:
    """Rewrite the shorter shards that tasks ended with, so that all of a split but the last have ``shard_rows``."""
    full = [shard for shard in shards if shard.rows == config.shard_rows]
    recipes = []
    # In order of content, not of names, which are new each time: the same files and tasks give the same table.
    short = sorted((shard for shard in shards if shard.rows < config.shard_rows), key=lambda shard: shard.checksum)
    for split in sorted({shard.split for shard in short}):
        recipes += cut_evenly([shard for shard in short if shard.split == split], config.shard_rows)
    if recipes:
        merged = spark.sparkContext.parallelize(recipes, len(recipes)).map(lambda recipe: _merge(staging, recipe))
        full += merged.collect()
    return sorted(full, key=lambda shard: (shard.split, shard.checksum))


def cut_evenly(shards: list[Shard], rows: int) -> list[list[tuple[Shard, int, int]]]:
    """Cut shards laid end to end into pieces of ``rows``; each piece is a list of (shard, first row, end row)."""
    pieces: list[list[tuple[Shard, int, int]]] = []
    room = 0
    for shard in shards:
        start = 0
        while start < shard.rows:
            if room == 0:
                pieces.append([])
                room = rows
            stop = min(shard.rows, start + room)
            pieces[-1].append((shard, start, stop))
            room -= stop - start
            start = stop
    return pieces


def _merge(staging: str, recipe: list[tuple[Shard, int, int]]) -> Shard:
    table = pa.concat_tables([
        read_shard(storage.join(staging, shard.path)).slice(start, stop - start) for shard, start, stop in recipe])
    split = recipe[0][0].split
    counts = {pair["values"]: pair["counts"] for pair in table["label"].combine_chunks().value_counts().to_pylist()}
    return Shard(path=write_shard(staging, split, table), split=split, rows=table.num_rows, labels=counts,
                 checksum=checksum(table["sample_id"].to_numpy()))


def _reconcile(files: int, manifest: Manifest) -> None:
    samples, quarantined = manifest.rows(), sum(manifest.quarantined.values())
    if samples + quarantined != files:
        raise RuntimeError(f"{files} files were listed, but {samples} became samples and {quarantined} were quarantined; "
                           "nothing was committed. Did the folder change while it was read? Run the job again")
    if not samples:
        table = ", ".join(f"{reason}: {count}" for reason, count in manifest.quarantined.items())
        raise UserError(f"--images: expected readable images, but none of {files} files gave one ({table})")


def _commit(table: str, staging: str, staged: Manifest) -> None:
    """Move what was staged into the table, name it in the manifest, then remove what the manifest does not name."""
    shards = []
    for shard in staged.shards:
        # Named by content, so that the same samples give the same table, and the same order of training.
        path = f"samples/split={shard.split}/{shard.checksum}.parquet"
        storage.move(storage.join(staging, shard.path), storage.join(table, path))
        shards.append(dataclasses.replace(shard, path=path))
    for path in staged.quarantine:
        storage.move(storage.join(staging, path), storage.join(table, path))
    manifest = dataclasses.replace(staged, shards=shards)
    write_manifest(table, manifest)
    named = {storage.join(table, path) for path in [*(shard.path for shard in shards), *manifest.quarantine]}
    for folder in ("samples", "quarantine"):
        for path in storage.files(storage.join(table, folder), ".parquet"):
            if path not in named:
                storage.remove(path)
