"""Image files to a table: list and place, decode on the executors, settle and audit, even out the shards, commit.

Each step is one Spark job. The rows that are kept of each file stay on the executors, in the catalog; the driver hears
of shards and sums only.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from cxrflow.base import lease, storage
from cxrflow.base.config import IngestConfig, parse_bytes, split_fractions, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest, Shard, has_manifest, read_generation, read_manifest
from cxrflow.base.schema import SAMPLES, spark_ddl
from cxrflow.catalog.assign import TASK_FILES, Assignment, add_files, add_labels, add_table, assign_files, write_tasks
from cxrflow.catalog.audit import audit
from cxrflow.catalog.commit import commit, sweep
from cxrflow.catalog.database import new_catalog, open_catalog
from cxrflow.catalog.delta_log import check_delta, check_unchanged, is_delta, write_version
from cxrflow.catalog.findings_reader import FindingsReader
from cxrflow.catalog.reconcile import QUARANTINE_FILE, Reconciled, add_outcomes, add_unread, reconcile, write_quarantine
from cxrflow.catalog.table_summary import log_summary
from cxrflow.images import Recipe, find_decoder
from cxrflow.spark.compaction import compact_shards
from cxrflow.spark.credentials import share_credentials
from cxrflow.spark.decode_task import DONE, DecodeTask
from cxrflow.spark.insecure_packages import warn_about_insecure_packages
from cxrflow.spark.labels_file import read_labels
from cxrflow.spark.listing import LISTING, check_apart, check_images, count_hidden, list_files, walk, with_contents
from cxrflow.spark.parquet_parts import read_parts, write_parts
from cxrflow.spark.session import registered_slots

log = logging.getLogger(__name__)

# Aimed at for one decoding task: long enough to pay its start, short enough to balance and to try again.
TASK_BYTES = 256 * 2**20
# At least so many shards, so that a small table can be shuffled and shared out too: two for each of the 24 streams
# that training deals shards to.
FEWEST_SHARDS = 48
LARGEST_SHARD_ROWS = 128

# What must stay as it was when files are added to a table, or its rows would not be of one kind.
LASTING = ("height", "width", "resize", "decoder", "label_rule", "findings", "split", "patients", "seed")


def check_ingest(config: IngestConfig) -> None:
    """Raise UserError for what shows to be wrong before Spark is started."""
    check_images(config.images)
    check_apart(config.images, config.table, "--table")
    find_decoder(config.decoder)
    if config.delta or is_delta(config.table):
        check_delta()
    if set("#?") & set(config.table):
        raise UserError(
            f"--table: expected a path without # and ?, which Petastorm takes for parts of a URL; got {config.table!r}"
        )
    if config.labels and storage.is_local(config.labels) and not storage.exists(config.labels):
        raise UserError(f"--labels: expected a CSV or Parquet file, found nothing at {config.labels!r}")
    if not has_manifest(config.table) and storage.exists(config.table) and not storage.is_empty_folder(config.table):
        # The last two are left by an ingest that died.
        if not any(storage.exists(storage.join(config.table, name)) for name in ("_staging", lease.NAME)):
            raise UserError(
                f"--table: expected a new folder, an empty one or a table, but {config.table!r} holds "
                "something else, which is left alone; name another folder"
            )
    _table_to_extend(config)


def _table_to_extend(config: IngestConfig) -> Manifest | None:
    """The table that is there and that files are added to, if there is one. Raises UserError where it was made in
    another way than ``config`` asks for."""
    if not has_manifest(config.table) or config.if_exists == "overwrite":
        return None
    if config.if_exists == "fail":
        raise UserError(
            f"--table: expected a new folder, got the table {config.table!r}; name another folder, add files to it with "
            "--if-exists extend, or replace it with --if-exists overwrite"
        )
    manifest = read_manifest(config.table)
    asked = {name: getattr(config, name) for name in LASTING}
    made = {name: manifest.config.get(name) for name in LASTING}
    if bool(config.labels) != bool(manifest.config["labels"]):  # the file itself may be another, with more lines
        asked["labels"], made["labels"] = config.labels, manifest.config["labels"]
    if config.shard_rows:
        asked["shard_rows"], made["shard_rows"] = config.shard_rows, manifest.shard_rows
    other = [
        f"--{name.replace('_', '-')} {made[name]}" if made[name] is not None else f"no --{name.replace('_', '-')}"
        for name in asked
        if asked[name] != made[name]
    ]
    if other:
        raise UserError(
            f"--table: {config.table!r} was made with {' '.join(other)}; expected the same, to add files to it, "
            "or --if-exists overwrite, to make it anew"
        )
    check_unchanged(config.table, manifest, may_lag=True)
    return manifest


def ingest(spark: SparkSession, config: IngestConfig) -> dict:
    """Decode what is new below ``config.images`` into the table ``config.table``.

    Every file ends either as a row of samples or as a row of quarantine with its reason. A file that the table has
    already (same path, size and modification time, same label and patient) is not read again, a changed one is
    replaced, and the row of one that is gone stays. What belongs to the table is what its manifest names, and that is
    replaced at once at the end; a run that dies before leaves the old table, and the next one does the work.

    Returns files (listed), skipped (hidden ones; null where the file system does not count them), added, replaced, missing (samples whose file no longer exists);
    samples, quarantined, reasons, counts (by split and label; of several findings where each is present, beside absent and
    unknown), patients (by split), shards of the whole table; audit (see
    ``catalog.audit``), worker_memory (bytes, the most that a Python worker took) and seconds.
    Raises UserError for bad input, RuntimeError where the counts do not reconcile.
    """
    started = time.monotonic()
    share_credentials(spark)
    check_ingest(config)
    # Tasks run in other folders than the one that a relative path starts from.
    config = dataclasses.replace(config, images=storage.absolute(config.images), table=storage.absolute(config.table))
    with _removed_if_empty(config.table), lease.hold(config.table, "--table") as held:
        everything = storage.join(config.table, "_staging")
        storage.remove(everything)  # of runs that died: nobody else writes here now
        staging = storage.join(everything, uuid.uuid4().hex)
        try:
            result = _Ingest(spark, config, staging).run(held)
        finally:
            storage.remove(staging)
            storage.remove_if_empty(everything)
    return {**result, "table": storage.absolute(config.table), "seconds": round(time.monotonic() - started, 2)}


@contextmanager
def _removed_if_empty(table: str) -> Iterator[None]:
    """A run that fails before there is a table leaves no folder behind."""
    try:
        yield
    finally:
        storage.remove_if_empty(table)


class _Ingest:
    """One run; the methods stand in the order in which ``run`` takes them."""

    def __init__(self, spark: SparkSession, config: IngestConfig, staging: str):
        self._spark, self._config, self._staging = spark, config, staging
        self._memory = parse_bytes("--worker-memory", config.worker_memory)
        self._before = _table_to_extend(config)

    def run(self, held: lease.Lease) -> dict:
        work = self._list_and_assign()
        assigned = work.assigned
        log.info(
            "%s files, %.1f MB, below %s%s",
            f"{assigned.files:,}",
            assigned.bytes / 1e6,
            self._config.images,
            "" if assigned.to_decode == assigned.files else f"; {assigned.to_decode:,} to decode",
        )
        if assigned.missing:
            log.warning(
                "%s samples have no file any more; they stay in the table. Use --if-exists overwrite to make it anew.",
                f"{assigned.missing:,}",
            )
        if assigned.to_decode == 0:
            self._write_delta(self._before)
            sweep(self._config.table, self._before, held)
            return _result(self._before, assigned)
        done = self._decode(work)
        reconciled, found = self._reconcile([row["outcomes"] for row in done])
        shards = self._compact_shards(reconciled, work.shard_rows)
        manifest = commit(self._config.table, self._staging, self._manifest(work, reconciled, found, shards), held)
        self._write_delta(manifest)
        sweep(self._config.table, manifest, held)
        log_summary(manifest, split_fractions(self._config.split))
        return _result(
            manifest,
            assigned,
            added=reconciled.added,
            replaced=reconciled.replaced,
            worker_memory=max(row["memory"] for row in done),
        )

    def _list_and_assign(self) -> _Work:
        config, staging, before = self._config, self._staging, self._before
        is_local = storage.is_local(config.images)
        listing = None if is_local else self._staged("listing", list_files(self._spark, config.images), LISTING)
        labels = None if config.labels is None else self._staged_labels(read_labels(self._spark, config))
        slots, memory = registered_slots(self._spark), self._memory // 2
        work = _in_one_task(self._spark, lambda: _assign_files(config, staging, before, listing, labels, slots, memory))
        if not is_local:
            skipped = count_hidden(self._spark, config.images, work.assigned.files)
            work = dataclasses.replace(work, assigned=dataclasses.replace(work.assigned, skipped=skipped))
        return work

    def _staged(self, name: str, frame: DataFrame, schema: pa.Schema) -> list[str]:
        """Write a frame below staging; returns its files. For what only Spark can read."""
        return [part["file"] for part in write_parts(frame, storage.join(self._staging, name), schema).collect()]

    def _staged_labels(self, frame: DataFrame) -> list[str]:
        return self._staged("labels", frame, pa.schema([(name, pa.string()) for name in frame.columns]))

    def _decode(self, work: _Work) -> list[dict]:
        """Decode the files, leaving shards in staging; returns what each task says (``decode.DONE``)."""
        config = self._config
        warn_about_insecure_packages(self._spark)
        recipe = Recipe(config.height, config.width, config.decoder, config.resize, config.max_pixels)
        task = DecodeTask(self._staging, recipe, work.shard_rows, self._memory)
        if storage.is_local(config.images):
            tasks = self._spark.sparkContext.parallelize(work.tasks, len(work.tasks))
            return tasks.flatMap(
                lambda place: [row for batch in task(_batches([place])) for row in batch.to_pylist()]
            ).collect()
        files = read_parts(self._spark, work.tasks, TASK_FILES)
        done: list[dict] = []
        for part in with_contents(self._spark, config.images, files, self._memory // 8):
            done += [row.asDict() for row in part.mapInArrow(task, spark_ddl(DONE)).collect()]
        return done

    def _reconcile(self, outcomes: list[str]) -> tuple[Reconciled, dict]:
        staging, config, memory = self._staging, self._config, self._memory // 2

        def work() -> tuple[Reconciled, dict]:
            with open_catalog(staging, memory) as catalog:
                add_outcomes(catalog, outcomes)
                if not storage.is_local(config.images):
                    add_unread(catalog)
                reconciled = reconcile(catalog, config.max_bad, config.task)
                write_quarantine(catalog, staging)
                return reconciled, audit(catalog)

        return _in_one_task(self._spark, work)

    def _compact_shards(self, reconciled: Reconciled, shard_rows: int) -> list[Shard]:
        """The table's shards, all but the last of each split full, with their paths below the table or staging."""
        table, staging = self._config.table, self._staging
        shards = {storage.join(table, shard.path): shard for shard in (self._before.shards if self._before else [])}
        shards |= {storage.join(staging, shard.path): shard for shard in reconciled.staged}
        changes = [
            (storage.join(table, shard), row, None) for shard, rows in reconciled.replaced_rows.items() for row in rows
        ]
        changes += [(storage.join(staging, shard), row, split) for shard, row, split in reconciled.changes]
        return compact_shards(self._spark, staging, shards, changes, shard_rows, self._config.task)

    def _manifest(self, work: _Work, reconciled: Reconciled, found: dict, shards: list[Shard]) -> Manifest:
        config = self._config
        generation = read_generation(config.table) if has_manifest(config.table) else 0
        return Manifest(
            generation=generation + 1,
            height=config.height,
            width=config.width,
            labels=work.findings or sorted({label for shard in shards for label in shard.labels}),
            task=config.task,
            shard_rows=work.shard_rows,
            shards=shards,
            quarantine=[QUARANTINE_FILE],
            quarantined=reconciled.reasons,
            config=to_dict(config),
            columns={column.name: str(column.type) for column in SAMPLES},
            split_thresholds=work.assigned.thresholds,
            audit=found,
            table_id=self._before.table_id if self._before else uuid.uuid4().hex,
        )

    def _write_delta(self, manifest: Manifest) -> None:
        """A table that is a Delta table stays one."""
        if self._config.delta or is_delta(self._config.table):
            log.info(
                "Delta table %s, version %d",
                storage.join(self._config.table, "samples"),
                write_version(self._config.table, manifest),
            )


@dataclass(frozen=True)
class _Work:
    """What is to do, as the first task found it."""

    assigned: Assignment
    shard_rows: int
    tasks: list[str]
    """Parquet files that list the files of one decoding task each."""
    findings: list[str] | None
    """Those of the table, where an image has several."""


def _assign_files(
    config: IngestConfig,
    staging: str,
    before: Manifest | None,
    listing: list[str] | None,
    labels: list[str] | None,
    slots: int,
    memory: int,
) -> _Work:
    """The first task: list, label and place the files, and share them out to decoding tasks."""
    with new_catalog(staging, memory) as catalog:
        add_files(catalog, config, walk(storage.absolute(config.images)) if listing is None else _batches(listing))
        told = None if config.findings is None else FindingsReader(config.findings, before.labels if before else [])
        if labels is not None:
            add_labels(catalog, config, _batches(labels), told)
        if before:
            add_table(catalog, config.table, before)
        assigned = assign_files(catalog, config, before.split_thresholds if before else {})
        rows = before.shard_rows if before else shard_rows(config, assigned.to_decode)
        return _Work(
            assigned,
            rows,
            write_tasks(catalog, staging, decoding_tasks(assigned, slots), rows),
            told.findings() if told else None,
        )


def shard_rows(config: IngestConfig, files: int) -> int:
    """Rows of a shard of a new table; see IngestConfig.shard_rows."""
    if config.shard_rows:
        return config.shard_rows
    image, memory = config.height * config.width, parse_bytes("--worker-memory", config.worker_memory)
    rows = LARGEST_SHARD_ROWS
    while rows > 1 and (rows * image > memory // 8 or (rows > 8 and rows * FEWEST_SHARDS > files)):
        rows //= 2
    return rows


def decoding_tasks(assigned: Assignment, slots: int) -> int:
    """As many as the task slots, or so many times as many that none is too long."""
    rounds = math.ceil(assigned.bytes_to_decode / (TASK_BYTES * slots))
    return max(1, min(assigned.to_decode, slots * max(1, rounds)))


def _batches(places: list[str]) -> Iterator[pa.RecordBatch]:
    for place in places:
        with storage.open_file(place) as file:
            yield from pq.ParquetFile(file).iter_batches(10_000)


def _in_one_task(spark: SparkSession, work: Callable[[], Any]) -> Any:
    """The result of ``work`` on an executor. What it raises for the user is raised here as it is."""

    def guarded(_):
        try:
            return True, work()
        except UserError as error:
            return False, str(error)

    good, result = spark.sparkContext.parallelize([0], 1).map(guarded).collect()[0]
    if not good:
        raise UserError(result)
    return result


def _doubts(manifest: Manifest) -> dict:
    """Of several findings, counts says where each is present; here are those where it is absent, and not known."""
    return {} if manifest.task == "single" else {"absent": manifest.absent(), "unknown": manifest.unknown()}


def _result(manifest: Manifest, assigned: Assignment, **new: int) -> dict:
    return {
        "files": assigned.files,
        "skipped": assigned.skipped,
        "missing": assigned.missing,
        "added": 0,
        "replaced": 0,
        "worker_memory": 0,
        **new,
        "samples": manifest.rows(),
        "quarantined": sum(manifest.quarantined.values()),
        "reasons": manifest.quarantined,
        "counts": manifest.counts(),
        **_doubts(manifest),
        "patients": manifest.audit["patients"],
        "shards": len(manifest.shards),
        "audit": {name: value for name, value in manifest.audit.items() if name != "patients"},
    }
