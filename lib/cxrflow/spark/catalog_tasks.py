"""The tasks of an ingest that work on the catalog, before decoding and after it. Each runs on one executor."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import duckdb

from cxrflow.base.config import IngestConfig, parse_bytes, parse_selection
from cxrflow.base.manifest import Manifest
from cxrflow.catalog.assign import Assignment, add_files, add_table, assign_files, write_tasks
from cxrflow.catalog.audit import audit
from cxrflow.catalog.database import NAME, SCANNED_NAME, new_catalog, open_catalog
from cxrflow.catalog.findings_reader import FindingsReader
from cxrflow.catalog.headers import (
    HeaderCounts,
    add_headers,
    describe_files,
    patients_from_headers,
    set_patients,
    write_scan_tasks,
)
from cxrflow.catalog.kermany_folders import add_folder_splits
from cxrflow.catalog.labels import LabelFiles, LabelsSummary, add_labels
from cxrflow.catalog.reconcile import Reconciled, add_outcomes, add_unread, reconcile, write_quarantine
from cxrflow.catalog.select_files import Selected, select_files
from cxrflow.spark.image_folder import Listing

# Image data per decoding task: enough to pay for the task's start, little enough to balance and to retry.
TASK_BYTES = 512 * 2**20
# A new table has at least this many shards if possible, so that a small one can be shuffled and sharded too: two for
# each of the 24 virtual streams of training.
MIN_SHARDS = 48
MAX_SHARD_ROWS = 128


@dataclass(frozen=True)
class DecodePlan:
    """The files to decode, and how."""

    assigned: Assignment
    headers: HeaderCounts
    selected: Selected
    shard_rows: int
    tasks: list[str]
    """URLs of Parquet files, each with the files of one decoding task."""
    catalog: str
    """The name of the stored catalog."""


@dataclass(frozen=True)
class Listed:
    """The files and what is known of them without opening them."""

    findings: list[str] | None
    """The findings of a multi-label table."""
    labels: LabelsSummary | None
    """What the labels file said, if there is one."""
    splits_by_folder: bool
    """Whether the folders gave the splits."""
    by_header: bool
    """Whether the patients of DICOM files come from their headers."""
    scans: list[str]
    """URLs of Parquet files, each with the files of one task that reads DICOM headers."""
    plan: DecodePlan | None
    """How to go on if no header must be read."""


@dataclass(frozen=True)
class ListTask:
    """List the files with their labels, and find those whose header must be read. If there are none, plan decoding."""

    config: IngestConfig
    staging: str
    existing: Manifest | None
    """The table to extend, if any."""
    listing: Listing
    labels: LabelFiles | None
    slots: int
    """Task slots of the executors."""
    memory: int
    """Bytes for the catalog's database."""

    def __call__(self) -> Listed:
        """Fill the catalog and write the task files. Raises UserError for a bad labels file or folder."""
        config, existing = self.config, self.existing
        reader = labels = None
        if config.findings is not None:
            reader = FindingsReader(config.findings, existing.labels if existing else [], config.merge_labels)
        with new_catalog(self.staging, self.memory) as catalog:
            add_files(catalog, config, self.listing())
            by_folder = self.labels is None and add_folder_splits(catalog, config)
            if self.labels is not None:
                labels = add_labels(catalog, config, self.labels, reader)
            if existing:
                add_table(catalog, config.table, existing)
            by_header = patients_from_headers(catalog, config.patients, existing.patient_key if existing else "")
            scans = write_scan_tasks(
                catalog, self.staging, self.slots, all_names=config.patients == "dicom" or config.select is not None
            )
            plan = None if scans else _plan(catalog, NAME, config, existing, by_header, self.staging, self.slots)
            findings = reader.findings() if reader else None
            return Listed(findings, labels, by_folder, by_header, scans, plan)


@dataclass(frozen=True)
class AssignTask:
    """Add the headers that were read, assign the splits, and group the files to decode into tasks."""

    config: IngestConfig
    staging: str
    existing: Manifest | None
    by_header: bool
    """See ``Listed``."""
    headers: list[str]
    """URLs of the scanning tasks' Parquet files."""
    slots: int
    memory: int

    def __call__(self) -> DecodePlan:
        """Continue the catalog of ListTask. Raises UserError as ListTask does."""
        with new_catalog(self.staging, self.memory, SCANNED_NAME, based_on=NAME) as catalog:
            add_headers(catalog, self.headers)
            return _plan(catalog, SCANNED_NAME, self.config, self.existing, self.by_header, self.staging, self.slots)


def _plan(
    catalog: duckdb.DuckDBPyConnection,
    name: str,
    config: IngestConfig,
    existing: Manifest | None,
    by_header: bool,
    staging: str,
    slots: int,
) -> DecodePlan:
    headers = describe_files(catalog, by_header)
    if by_header:
        set_patients(catalog, config.patients)
    selected = select_files(catalog, config, parse_selection(config.select)) if config.select else Selected()
    assigned = assign_files(catalog, config, existing.split_thresholds if existing else {})
    rows = existing.shard_rows if existing else shard_rows(config, assigned.to_decode)
    tasks = write_tasks(catalog, staging, decoding_tasks(assigned, slots), rows)
    # The files that were left out are listed too.
    assigned = dataclasses.replace(
        assigned, files=assigned.files + selected.left_out, bytes=assigned.bytes + selected.bytes
    )
    return DecodePlan(assigned, headers, selected, rows, tasks, name)


def shard_rows(config: IngestConfig, files: int) -> int:
    """Rows per shard of a new table, see ``IngestConfig.shard_rows``."""
    if config.shard_rows:
        return config.shard_rows
    image, memory = config.height * config.width, parse_bytes("--worker-memory", config.worker_memory)
    rows = MAX_SHARD_ROWS
    while rows > 1 and (rows * image > memory // 8 or (rows > 8 and rows * MIN_SHARDS > files)):
        rows //= 2
    return rows


def decoding_tasks(assigned: Assignment, slots: int) -> int:
    """The number of decoding tasks: a multiple of the task slots, so that no task has more than about TASK_BYTES."""
    rounds = math.ceil(assigned.bytes_to_decode / (TASK_BYTES * slots))
    return max(1, min(assigned.to_decode, slots * max(1, rounds)))


@dataclass(frozen=True)
class ReconcileTask:
    """Add the outcomes of decoding, reconcile splits, write the quarantine and audit the whole table."""

    config: IngestConfig
    staging: str
    catalog: str
    """The name of the stored catalog."""
    outcomes: list[str]
    """URLs of the decoding tasks' Parquet files of OUTCOME."""
    skips_unreadable: bool
    """See ``ImageFolder``."""
    memory: int
    """Bytes for the catalog's database."""

    def __call__(self) -> tuple[Reconciled, dict]:
        """(outcome, audit). Raises UserError and RuntimeError, see ``reconcile``."""
        with open_catalog(self.staging, self.memory, self.catalog) as catalog:
            add_outcomes(catalog, self.outcomes)
            if self.skips_unreadable:
                add_unread(catalog)
            reconciled = reconcile(catalog, self.config.max_bad, self.config.task)
            write_quarantine(catalog, self.staging)
            return reconciled, audit(catalog)
