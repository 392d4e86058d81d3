"""Ingest: turn image files into a table.

The steps: list the files and assign splits, decode on the executors, reconcile and audit, compact the shards, commit.
Each step is a Spark job. The facts about each file stay in the catalog on the executors; the driver gets the shards and
sums only.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
import tempfile
import time
import uuid
from pathlib import Path

from pyspark.sql import SparkSession

from cxrflow.base import lease, patient_key, staging_folder, storage
from cxrflow.base.config import IngestConfig, parse_bytes, split_fractions, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest, Shard, check_table_url, has_manifest, read_generation, read_manifest
from cxrflow.base.patient_key import PatientKey, find_key, given_key, remove_unused_key, save_key
from cxrflow.base.schema import SAMPLES
from cxrflow.catalog.assign import TASK_FILES
from cxrflow.catalog.commit import commit, sweep
from cxrflow.catalog.delta_log import check_delta, check_unchanged, is_delta, write_version
from cxrflow.catalog.headers import SCAN_FILES
from cxrflow.catalog.kermany_folders import TITLE as KERMANY
from cxrflow.catalog.labels import LabelFiles, LabelsSummary, log_lines, resolve_findings
from cxrflow.catalog.labels_csv import LabelsFile
from cxrflow.catalog.reconcile import QUARANTINE_FILE, Reconciled
from cxrflow.catalog.table_summary import log_headers, log_selection, log_summary
from cxrflow.images import Recipe, find_decoder
from cxrflow.spark.catalog_tasks import AssignTask, DecodePlan, Listed, ListTask, ReconcileTask
from cxrflow.spark.compaction import Change, compact_shards
from cxrflow.spark.credentials import share_credentials
from cxrflow.spark.decode_task import TASK_RESULT, DecodeTask
from cxrflow.spark.header_task import SCAN_RESULT, HeaderTask
from cxrflow.spark.image_folder import open_folder
from cxrflow.spark.insecure_packages import warn_about_insecure_packages
from cxrflow.spark.labels_file import copy_labels, find_labels, stage_labels
from cxrflow.spark.listing import check_apart, check_images
from cxrflow.spark.session import registered_slots, run_on_executor

log = logging.getLogger(__name__)

# Flags that must stay the same when a table is extended, or its rows would be of different kinds.
FIXED_FLAGS = (
    *("height", "width", "resize", "decoder", "label_rule", "findings", "split", "patients", "seed", "readers"),
    "select",
)


def check_ingest(config: IngestConfig) -> None:
    """Check the configuration, the folders and the existing table before Spark starts. Raises UserError."""
    if config.labels and (labels := find_labels(config.labels)):
        config = _with_findings(config, labels)
    _check(config)


def _check(config: IngestConfig) -> None:
    """Check a configuration whose ``findings`` are resolved."""
    check_images(config.images)
    check_apart(config.images, config.table, "--table")
    find_decoder(config.decoder)
    given_key(config.patient_key)
    if config.delta or is_delta(config.table):
        check_delta()
    check_table_url(config.table)
    if not has_manifest(config.table) and not staging_folder.has_only_leftovers(config.table):
        left_by_ingest = (staging_folder.NAME, lease.NAME)  # an ingest died before it wrote a manifest
        if not any(storage.exists(storage.join(config.table, name)) for name in left_by_ingest):
            raise UserError(
                f"--table: expected a new folder, an empty one or a table, but {config.table!r} holds "
                "something else, which ingest never removes; choose another folder"
            )
    _table_to_extend(config)


def _with_findings(config: IngestConfig, labels: LabelFiles) -> IngestConfig:
    """The configuration with ``--findings`` as the layout of the labels file asks for it."""
    return dataclasses.replace(config, findings=resolve_findings(config, LabelsFile(labels.url)))


def _table_to_extend(config: IngestConfig) -> Manifest | None:
    """The existing table to add files to, if any. Raises UserError if it was made with other flags."""
    if not has_manifest(config.table) or config.if_exists == "overwrite":
        return None
    if config.if_exists == "fail":
        raise UserError(
            f"--table: expected a new folder, got the table {config.table!r}; choose another folder, add files with "
            "--if-exists extend, or replace it with --if-exists overwrite"
        )
    manifest = read_manifest(config.table)
    flags = {name: getattr(config, name) for name in FIXED_FLAGS}
    table_flags = {name: manifest.config.get(name, getattr(IngestConfig, name)) for name in FIXED_FLAGS}
    if bool(config.labels) != bool(manifest.config["labels"]):  # another labels file with more rows is fine
        flags["labels"], table_flags["labels"] = config.labels, manifest.config["labels"]
    if config.shard_rows:
        flags["shard_rows"], table_flags["shard_rows"] = config.shard_rows, manifest.shard_rows
    different = [
        f"--{name.replace('_', '-')} {_quoted(value)}" if value is not None else f"no --{name.replace('_', '-')}"
        for name, value in table_flags.items()
        if flags[name] != value
    ]
    if different:
        raise UserError(
            f"--table: {config.table!r} was made with {' '.join(different)}; use the same flags to add files to it, "
            "or --if-exists overwrite to build it again"
        )
    if manifest.patient_key:
        find_key(config.patient_key, config.table, manifest.patient_key)
    check_unchanged(config.table, manifest, may_lag=True)
    return manifest


def _quoted(value: object) -> str:
    """A flag's value as the shell needs it, for texts with blanks."""
    return shlex.quote(value) if isinstance(value, str) and " " in value else str(value)


def ingest(spark: SparkSession, config: IngestConfig) -> dict:
    """Decode the new and changed files below ``config.images`` into the table ``config.table``.

    Every file becomes a sample, or a row of the quarantine with a reason, or ``--select`` leaves it out. A file that
    the table already has is not read again if its path, size, modification time, label and patient are the same. A
    changed file replaces its sample. The sample of a missing file stays. The manifest is replaced atomically at the
    end: a run that dies earlier leaves the old table, and the next run repeats the work.

    Returns files (listed), left_out (of these, by ``--select``), skipped (hidden files, None if unknown), missing
    (samples whose file no longer exists), added, replaced, worker_memory (peak bytes of a Python worker), table and
    seconds; and about the whole table: samples, quarantined, reasons, doubts (images by kind of ``images.DOUBTS``),
    counts (by split and label; for a multi-label table also absent and unknown), patients (by split), shards and audit
    (see ``catalog.audit``).
    Raises UserError for bad input, and RuntimeError if files and rows do not match.
    """
    share_credentials(spark)
    # A relative path would mean another folder in the tasks.
    config = dataclasses.replace(config, images=storage.absolute(config.images), table=storage.absolute(config.table))
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as copies:
        labels = find_labels(config.labels) if config.labels else None
        if config.labels and labels is None:
            labels = copy_labels(spark, config.labels, Path(copies))
        if labels:
            config = _with_findings(config, labels)
        _check(config)
        return _ingest(spark, config, labels)


def _ingest(spark: SparkSession, config: IngestConfig, labels: LabelFiles | None) -> dict:
    started = time.monotonic()
    with staging_folder.hold(config.table, "--table") as (staging, held):
        if not has_manifest(config.table):
            _remove_uncommitted(config.table)
        try:
            result = _Ingest(spark, config, labels, staging, held).run()
        except BaseException:
            if not has_manifest(config.table):
                _remove_uncommitted(config.table)
            raise
    return {**result, "table": config.table, "seconds": round(time.monotonic() - started, 2)}


def _remove_uncommitted(table: str) -> None:
    """Remove the files that a first ingest moved out of the staging folder, if it died before its commit."""
    for name in ("samples", "quarantine", patient_key.FILE):
        storage.remove(storage.join(table, name))


class _Ingest:
    """One run. The methods are in the order in which ``run`` calls them."""

    def __init__(
        self, spark: SparkSession, config: IngestConfig, labels: LabelFiles | None, staging: str, held: lease.Lease
    ):
        self._spark, self._config, self._staging, self._lease = spark, config, staging, held
        self._labels = labels
        self._memory = parse_bytes("--worker-memory", config.worker_memory)
        self._existing = _table_to_extend(config)
        self._folder = open_folder(spark, config.images)
        self._slots = registered_slots(spark)
        self._key: PatientKey | None = None

    def run(self) -> dict:
        listed = self._list_files()
        plan = self._assign(listed)
        if plan.assigned.to_decode == 0 and plan.selected.removed == 0 and self._existing:
            self._finish(self._existing)
            return result_of(self._existing, plan, listed.labels)
        decoded = self._decode(plan)
        reconciled, audit = self._reconcile_and_audit(plan, [task["outcomes"] for task in decoded])
        shards = self._compact_shards(reconciled, plan.shard_rows)
        manifest = self._commit(plan, listed.findings, reconciled, audit, shards)
        self._finish(manifest)
        log_summary(manifest, split_fractions(self._config.split))
        return result_of(
            manifest,
            plan,
            listed.labels,
            added=reconciled.added,
            replaced=reconciled.replaced,
            worker_memory=max((task["memory"] for task in decoded), default=0),
        )

    def _list_files(self) -> Listed:
        """List the files with their labels, and plan the decoding if no header must be read first."""
        task = ListTask(
            config=self._config,
            staging=self._staging,
            existing=self._existing,
            listing=self._folder.list_files(self._staging),
            labels=self._stage_labels(),
            slots=self._slots,
            memory=self._memory // 2,
        )
        listed = run_on_executor(self._spark, task)
        self._log_labels(listed)
        return listed

    def _assign(self, listed: Listed) -> DecodePlan:
        """Read the headers of DICOM files, assign the splits, and plan the decoding tasks."""
        plan = listed.plan or run_on_executor(
            self._spark,
            AssignTask(
                config=self._config,
                staging=self._staging,
                existing=self._existing,
                by_header=listed.by_header,
                headers=self._read_headers(listed),
                slots=self._slots,
                memory=self._memory // 2,
            ),
        )
        assigned = plan.assigned
        skipped = self._folder.count_hidden(assigned.files, assigned.skipped or 0)
        log.info(
            "%s files (%.1f MB) below %s, %s to decode",
            f"{assigned.files:,}",
            assigned.bytes / 1e6,
            self._config.images,
            f"{assigned.to_decode:,}",
        )
        for label, chosen in sorted(assigned.merged.items()):
            log.info("labels: %r is read as %r", label, chosen)
        log_headers(plan.headers, listed.by_header, self._config.patients)
        log_selection(plan.selected, plan.headers.taken, self._config.select)
        if assigned.missing:
            log.warning(
                "The files of %s samples no longer exist. The samples stay in the table; use --if-exists overwrite to "
                "build the table without them.",
                f"{assigned.missing:,}",
            )
        return dataclasses.replace(plan, assigned=dataclasses.replace(assigned, skipped=skipped))

    def _read_headers(self, listed: Listed) -> list[str]:
        """Read headers on the executors; returns the URLs of the tasks' files of SCANNED."""
        if listed.by_header:
            table, existing = self._config.table, self._existing
            self._key = find_key(self._config.patient_key, table, existing.patient_key if existing else "")
        task = HeaderTask(self._staging, self._memory, self._key)
        rows = self._folder.map_tasks(listed.scans, SCAN_FILES, task, SCAN_RESULT, self._memory // 8)
        return [row["headers"] for row in rows]

    def _stage_labels(self) -> LabelFiles | None:
        """The labels file where executors can read it."""
        labels, config = self._labels, self._config
        if labels is None or config.labels is None or labels.url == storage.absolute(config.labels):
            return labels
        return stage_labels(labels, self._staging)

    def _log_labels(self, listed: Listed) -> None:
        if listed.labels is not None:
            for line in log_lines(listed.labels, str(self._config.labels)):
                log.info("%s", line)
        if listed.splits_by_folder:
            log.info("splits: the folders train, val and test, as %s published them", KERMANY)

    def _decode(self, plan: DecodePlan) -> list[dict]:
        """Decode the files into staged shards; returns the rows of TASK_RESULT."""
        config = self._config
        if not plan.tasks:
            return []
        warn_about_insecure_packages(self._spark)
        recipe = Recipe(config.height, config.width, config.decoder, config.resize, config.max_pixels)
        task = DecodeTask(self._staging, recipe, plan.shard_rows, self._memory)
        return self._folder.map_tasks(plan.tasks, TASK_FILES, task, TASK_RESULT, self._memory // 8)

    def _reconcile_and_audit(self, plan: DecodePlan, outcomes: list[str]) -> tuple[Reconciled, dict]:
        task = ReconcileTask(
            config=self._config,
            staging=self._staging,
            catalog=plan.catalog,
            outcomes=outcomes,
            skips_unreadable=self._folder.skips_unreadable,
            memory=self._memory // 2,
        )
        return run_on_executor(self._spark, task)

    def _compact_shards(self, reconciled: Reconciled, shard_rows: int) -> list[Shard]:
        """The table's shards, all full except the last of each split; new ones have paths relative to staging."""
        table, staging = self._config.table, self._staging
        shards = {storage.join(table, shard.path): shard for shard in (self._existing.shards if self._existing else [])}
        shards |= {storage.join(staging, shard.path): shard for shard in reconciled.staged}
        changes: list[Change] = [
            (storage.join(table, shard), row, None) for shard, rows in reconciled.replaced_rows.items() for row in rows
        ]
        changes += [(storage.join(staging, shard), row, split) for shard, row, split in reconciled.changes]
        return compact_shards(self._spark, staging, shards, changes, shard_rows, self._config.task)

    def _commit(
        self, plan: DecodePlan, findings: list[str] | None, reconciled: Reconciled, audit: dict, shards: list[Shard]
    ) -> Manifest:
        config = self._config
        manifest = Manifest(
            generation=1 + (read_generation(config.table) if has_manifest(config.table) else 0),
            height=config.height,
            width=config.width,
            labels=findings or sorted({label for shard in shards for label in shard.labels}),
            task=config.task,
            shard_rows=plan.shard_rows,
            shards=shards,
            quarantine=[QUARANTINE_FILE],
            quarantined=reconciled.reasons,
            config=to_dict(config),
            columns={column.name: str(column.type) for column in SAMPLES},
            split_thresholds=plan.assigned.thresholds,
            audit=audit | ({"selection": plan.selected.facts()} if config.select else {}),
            table_id=self._existing.table_id if self._existing else uuid.uuid4().hex,
            patient_key=self._fingerprint(plan),
        )
        if self._key and manifest.patient_key:
            save_key(config.table, self._key)
        return commit(config.table, self._staging, manifest, self._lease)

    def _fingerprint(self, plan: DecodePlan) -> str:
        """``Manifest.patient_key``."""
        before = self._existing.patient_key if self._existing else ""
        return self._key.fingerprint() if self._key and plan.headers.dicom else before

    def _finish(self, manifest: Manifest) -> None:
        """Update the Delta log, if there is one, and remove the files that no generation needs any more."""
        table = self._config.table
        if self._config.delta or is_delta(table):  # a Delta table stays one
            log.info("Delta table %s, version %d", storage.join(table, "samples"), write_version(table, manifest))
        remove_unused_key(table, manifest.patient_key)
        sweep(table, manifest, self._lease, self._config.keep_generations, self._config.grace_hours * 3600)


def result_of(
    manifest: Manifest,
    plan: DecodePlan,
    labels: LabelsSummary | None,
    added: int = 0,
    replaced: int = 0,
    worker_memory: int = 0,
) -> dict:
    """What ``ingest`` returns, except ``table`` and ``seconds``."""
    assigned, counts = plan.assigned, dict[str, dict]({"counts": manifest.counts()})
    if labels is not None:
        counts["labels"] = {
            "layout": labels.title,
            "rows": labels.matches.rows,
            "rows_without_file": labels.matches.rows_without_file,
            "files_without_row": labels.matches.files_without_row,
        }
    if manifest.task == "multi":  # counts has the images where a finding is present
        counts |= {"absent": manifest.absent(), "unknown": manifest.unknown()}
    return {
        "files": assigned.files,
        "skipped": assigned.skipped,
        "left_out": plan.selected.left_out,
        "missing": assigned.missing,
        "added": added,
        "replaced": replaced,
        "worker_memory": worker_memory,
        "samples": manifest.rows(),
        "quarantined": sum(manifest.quarantined.values()),
        "reasons": manifest.quarantined,
        "doubts": {name: found["files"] for name, found in manifest.audit.get("doubts", {}).items()},
        **counts,
        "patients": manifest.audit["patients"],
        "shards": len(manifest.shards),
        "audit": {name: value for name, value in manifest.audit.items() if name != "patients"},
    }
