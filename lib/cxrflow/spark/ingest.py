"""Image files to a table: list, place, decode on the executors, settle, audit, commit."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow import lease, storage
from cxrflow.commit import commit, sweep
from cxrflow.config import IngestConfig, parse_bytes, split_fractions, to_dict
from cxrflow.errors import UserError
from cxrflow.images import REASONS, Recipe, find_decoder
from cxrflow.manifest import Manifest, Shard, has_manifest, read_generation, read_manifest
from cxrflow.schema import QUARANTINE, SAMPLES, spark_ddl
from cxrflow.spark.audit import audit
from cxrflow.spark.contents import refusals, settle_splits, with_final_splits
from cxrflow.spark.decode import OUTCOME, DecodeTask
from cxrflow.spark.even import Change, even_out, staged_shards
from cxrflow.spark.known import Known, left_over, read_known, to_do
from cxrflow.spark.listing import Listing, check_apart, check_images, in_parts, list_files
from cxrflow.spark.placement import deal_splits, label_files
from cxrflow.spark.session import cached, settings, task_slots
from cxrflow.summary import describe

log = logging.getLogger(__name__)

# Aimed at for one decoding task: long enough to pay its start, short enough to balance and to try again.
TASK_BYTES = 256 * 2**20
# At least so many shards, so that a small table can be shuffled and shared out too: two for each of the 24 streams
# that training deals shards to.
FEWEST_SHARDS = 48
LARGEST_SHARD_ROWS = 128

# What is known of a sample when the table is judged as a whole.
FINAL = ("path", "sha256", "label", "patient_id", "split", "source_height", "source_width", "source_format", "source_bits",
         "note", "phash")

# What must stay as it was when files are added to a table, or its rows would not be of one kind.
LASTING = ("height", "width", "resize", "decoder", "split", "patients", "seed")


def check_ingest(config: IngestConfig) -> None:
    """Raise UserError for what shows to be wrong before Spark is started."""
    check_images(config.images)
    check_apart(config.images, config.table, "--table")
    find_decoder(config.decoder)
    if set("#?") & set(config.table):
        raise UserError(f"--table: expected a path without # and ?, which Petastorm takes for parts of a URL; "
                        f"got {config.table!r}")
    if config.labels and storage.is_local(config.labels) and not storage.exists(config.labels):
        raise UserError(f"--labels: expected a CSV or Parquet file, found nothing at {config.labels!r}")
    if not has_manifest(config.table) and storage.exists(config.table) and not storage.is_empty_folder(config.table):
        # The last two are left by an ingest that died.
        if not any(storage.exists(storage.join(config.table, name)) for name in ("_staging", lease.NAME)):
            raise UserError(f"--table: expected a new folder, an empty one or a table, but {config.table!r} holds "
                            "something else, which is left alone; name another folder")
    _table_to_extend(config)


def _table_to_extend(config: IngestConfig) -> Manifest | None:
    """The table that is there and that files are added to, if there is one. Raises UserError where it was made in
    another way than ``config`` asks for."""
    if not has_manifest(config.table) or config.overwrite:
        return None
    manifest = read_manifest(config.table)
    asked = {**{name: getattr(config, name) for name in LASTING}}
    made = {name: manifest.config.get(name) for name in LASTING}
    if config.shard_rows:
        asked["shard_rows"], made["shard_rows"] = config.shard_rows, manifest.shard_rows
    other = [f"--{name.replace('_', '-')} {made[name]}" for name in asked if asked[name] != made[name]]
    if other:
        raise UserError(f"--table: {config.table!r} was made with {' '.join(other)}; expected the same, to add files to it, "
                        "or --overwrite, to make it anew")
    return manifest


def ingest(spark: SparkSession, config: IngestConfig) -> dict:
    """Decode what is new below ``config.images`` into the table ``config.table``.

    Every file ends either as a row of samples or as a row of quarantine with its reason. A file that the table has
    already (same path, size and modification time, same label and patient) is not read again, a changed one is
    replaced, and the row of one that is gone stays. What belongs to the table is what its manifest names, and that is
    replaced at once at the end; a run that dies before leaves the old table, and the next one does the work.

    Returns files (listed), skipped (hidden ones), added, replaced, gone; samples, quarantined, reasons, counts (by split
    and label), patients (by split), shards of the whole table; audit (see ``spark.audit``), worker_memory (bytes, the
    most that a Python worker took) and seconds.
    Raises UserError for bad input, RuntimeError where the counts do not reconcile.
    """
    started = time.monotonic()
    check_ingest(config)
    # A listing is small: what Spark would open files and split shuffles for costs more than the work itself.
    listing = {"spark.sql.files.openCostInBytes": 4096, "spark.sql.shuffle.partitions": max(8, 2 * task_slots(spark))}
    with _removed_if_empty(config.table), lease.hold(config.table) as held, settings(spark, listing), ExitStack() as caches:
        storage.remove(storage.join(config.table, "_staging"))  # of runs that died: nobody else writes here now
        staging = storage.join(config.table, "_staging", uuid.uuid4().hex)
        caches.callback(storage.remove, storage.join(config.table, "_staging"))
        result = _Ingest(spark, config, caches, staging).run(held)
    return {**result, "table": storage.absolute(config.table), "seconds": round(time.monotonic() - started, 2)}


@contextmanager
def _removed_if_empty(table: str) -> Iterator[None]:
    """A run that fails before there is a table leaves no folder behind."""
    try:
        yield
    finally:
        if storage.is_empty_folder(table):
            storage.remove(table)


class _Ingest:
    """One run; the methods stand in the order in which ``run`` takes them."""

    def __init__(self, spark: SparkSession, config: IngestConfig, caches: ExitStack, staging: str):
        self._spark, self._config, self._caches, self._staging = spark, config, caches, staging
        self._memory = parse_bytes("--worker-memory", config.worker_memory)

    def run(self, held: lease.Lease) -> dict:
        listing = self._caches.enter_context(list_files(self._spark, self._config.images))
        log.info("%s files, %.1f MB, below %s", f"{listing.count:,}", listing.bytes / 1e6, self._config.images)
        known = self._known()
        labelled = self._cached(label_files(self._spark, listing.files, self._config))
        self._check_labels(labelled)
        todo = self._cached(to_do(labelled, known))
        total = todo.agg(F.count("*").alias("files"), F.sum("size").alias("bytes")).first()
        if total["files"] == 0:
            return self._up_to_date(known.manifest, listing)
        work, thresholds = deal_splits(
            todo, self._config, known.samples.select("patient_id", "split").distinct(),
            known.manifest.split_thresholds if known.manifest else {}, self._caches)
        rows = known.manifest.shard_rows if known.manifest else self._shard_rows(total["files"])
        outcomes = self._decode(work, total, rows)
        return self._finish(held, listing, known, work, outcomes, rows, thresholds)

    def _cached(self, frame: DataFrame) -> DataFrame:
        return self._caches.enter_context(cached(frame))

    def _known(self) -> Known:
        manifest = _table_to_extend(self._config)
        known = read_known(self._spark, self._config.table, manifest)
        return Known(manifest, self._cached(known.samples), self._cached(known.quarantine))

    def _check_labels(self, labelled: DataFrame) -> None:
        if self._config.labels and labelled.where("label is not null").isEmpty():
            raise UserError("--labels: expected labels for the images, but no path in the labels file is that of a file "
                            "below the images folder; give full paths or paths relative to that folder")

    def _up_to_date(self, manifest: Manifest, listing: Listing) -> dict:
        sweep(self._config.table, manifest)
        log.info("The table is up to date: it holds all %s files.", f"{listing.count:,}")
        return _result(manifest, listing, added=0, replaced=0, gone=0, memory=0)

    def _shard_rows(self, files: int) -> int:
        """Rows of a shard where the user names none; see IngestConfig.shard_rows."""
        if self._config.shard_rows:
            return self._config.shard_rows
        image = self._config.height * self._config.width
        rows = LARGEST_SHARD_ROWS
        while rows > 1 and (rows * image > self._memory // 8 or (rows > 8 and rows * FEWEST_SHARDS > files)):
            rows //= 2
        return rows

    def _decode(self, work: DataFrame, total, rows: int) -> DataFrame:
        """Decode the files, leaving shards in staging; returns the outcomes, one row a file."""
        config = self._config
        if storage.is_local(config.images):
            # A hash of the path spreads labels and sizes evenly over tasks and mixes them within each.
            work = work.repartition(self._tasks(total, rows), "path").sortWithinPartitions(F.xxhash64("path"))
        recipe = Recipe(config.height, config.width, config.decoder, config.resize, config.max_pixels)
        task = DecodeTask(self._staging, recipe, rows, self._memory)
        index = storage.for_spark(storage.join(self._staging, "outcomes"))
        columns = ["path", "size", "modified", "label", "patient_id", "split"]
        for part in in_parts(self._spark, config.images, work.select(*columns), self._memory // 8):
            part.mapInArrow(task, spark_ddl(OUTCOME)).write.mode("append").parquet(index)
        return self._spark.read.schema(spark_ddl(OUTCOME)).parquet(index)

    def _tasks(self, total, rows: int) -> int:
        """Decoding tasks: enough to balance, few enough that most shards are filled within one task."""
        wanted = min(math.ceil(total["bytes"] / TASK_BYTES), total["files"] // (8 * rows))
        return max(1, min(total["files"], max(task_slots(self._spark), wanted)))

    def _finish(self, held: lease.Lease, listing: Listing, known: Known, work: DataFrame, outcomes: DataFrame, rows: int,
                thresholds: dict[str, list[float]]) -> dict:
        kept = self._cached(left_over(known.samples, work))
        decoded = outcomes.where("shard is not null")
        changes = settle_splits(decoded.join(work.select("path", "fixed"), "path"), kept, self._caches)
        fresh = self._cached(with_final_splits(decoded, changes))
        samples = self._cached(kept.select(*FINAL).unionByName(fresh.where("split is not null").select(*FINAL)))
        refused = self._cached(refusals(fresh).unionByName(
            outcomes.where("shard is null").select(*QUARANTINE.names)).unionByName(left_over(known.quarantine, work)))
        self._check_bad(listing, refused)
        self._reconcile(listing, samples, refused)
        shards = self._shards(known, work, decoded, changes, rows)
        manifest = commit(self._config.table, self._staging,
                          self._manifest(known.manifest, shards, samples, refused, rows, thresholds), held)
        describe(manifest, split_fractions(self._config.split))
        counts = outcomes.agg(F.count("shard").alias("samples"), F.max("memory").alias("memory")).first()
        replaced = known.samples.count() - kept.count()
        gone = self._gone(listing, samples)
        return _result(manifest, listing, added=counts["samples"] - replaced, replaced=replaced, gone=gone,
                       memory=counts["memory"])

    def _check_bad(self, listing: Listing, refused: DataFrame) -> None:
        """Raise UserError where more files are bad than the user accepts, or none is good."""
        reasons = {row["reason"]: row["count"] for row in refused.join(listing.files, "path", "left_semi").groupBy(
            "reason").count().orderBy(F.desc("count")).collect()}
        bad, limit = sum(reasons.values()), self._config.max_bad
        if bad == listing.count:
            table = ", ".join(f"{reason}: {files}" for reason, files in reasons.items())
            raise UserError(f"--images: expected readable images, but none of {bad} files gave one ({table})")
        if limit is not None and bad > limit * listing.count:
            table = "\n".join(f"  {reason:<18}{files:>9,}  {REASONS[reason]}" for reason, files in reasons.items())
            raise UserError(f"--max-bad: {bad:,} of {listing.count:,} files ({bad / listing.count:.1%}) cannot be used, more "
                            f"than {limit:.1%}; the table was left as it was. Mend the files or raise the limit:\n{table}")

    def _reconcile(self, listing: Listing, samples: DataFrame, refused: DataFrame) -> None:
        """Raise RuntimeError unless each listed file is in exactly one row of the table."""
        rows = self._cached(samples.select("path").unionByName(refused.select("path")))
        lost = listing.files.join(rows, "path", "left_anti").count()
        twice = rows.groupBy("path").count().where("count > 1").count()
        if lost or twice:
            raise RuntimeError(f"of {listing.count} listed files, {lost} are neither a sample nor in quarantine and {twice} "
                               "are there more than once; nothing was committed. Did the folder change while it was read? "
                               "Run the job again")

    def _gone(self, listing: Listing, samples: DataFrame) -> int:
        """Samples of this folder whose file is no longer there."""
        root = storage.absolute(self._config.images) + "/"
        gone = samples.where(F.col("path").startswith(root)).join(listing.files, "path", "left_anti").count()
        if gone:
            log.warning("%s samples have no file any more; they stay in the table. Use --overwrite to make it anew.", f"{gone:,}")
        return gone

    def _shards(self, known: Known, work: DataFrame, decoded: DataFrame, changes: DataFrame | None, rows: int) -> list[Shard]:
        """The table's shards, all but the last of each split full, with their paths below the table or staging."""
        table, staging = self._config.table, self._staging
        shards = {storage.join(table, shard.path): shard for shard in (known.manifest.shards if known.manifest else [])}
        shards |= {storage.join(staging, shard.path): shard for shard in staged_shards(decoded)}
        replaced = known.samples.join(work, "path", "left_semi").select("shard", "row").collect()
        moves: list[Change] = [(storage.join(table, row["shard"]), row["row"], None) for row in replaced]
        if changes is not None:
            moves += [(storage.join(staging, row["shard"]), row["row"], row["final_split"]) for row in changes.collect()]
        return even_out(self._spark, staging, shards, moves, rows)

    def _manifest(self, before: Manifest | None, shards: list[Shard], samples: DataFrame, refused: DataFrame, rows: int,
                  thresholds: dict[str, list[float]]) -> Manifest:
        place = storage.join(self._staging, "quarantine")
        refused.select(*QUARANTINE.names).coalesce(1).write.parquet(storage.for_spark(place))
        reasons = refused.groupBy("reason").count().orderBy("reason").collect()
        config = self._config
        return Manifest(
            generation=_generation(config.table) + 1, height=config.height, width=config.width,
            labels=sorted({label for shard in shards for label in shard.labels}), shard_rows=rows, shards=shards,
            quarantine=[path.removeprefix(self._staging + "/") for path in storage.files(place, ".parquet")],
            quarantined={row["reason"]: row["count"] for row in reasons}, config=to_dict(config),
            columns={column.name: str(column.type) for column in SAMPLES}, split_thresholds=thresholds,
            audit=audit(samples))


def _generation(table: str) -> int:
    """How often the table was changed so far; also where it is of a version that is no longer read."""
    return read_generation(table) if has_manifest(table) else 0


def _result(manifest: Manifest, listing: Listing, *, added: int, replaced: int, gone: int, memory: int) -> dict:
    return {
        "files": listing.count, "skipped": listing.skipped, "added": added, "replaced": replaced, "gone": gone,
        "samples": manifest.rows(), "quarantined": sum(manifest.quarantined.values()), "reasons": manifest.quarantined,
        "counts": manifest.counts(), "patients": manifest.audit["patients"], "shards": len(manifest.shards),
        "audit": {name: value for name, value in manifest.audit.items() if name != "patients"}, "worker_memory": memory,
    }
