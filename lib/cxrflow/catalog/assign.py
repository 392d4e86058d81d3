"""Before decoding: find the files to decode, assign each a label, a patient and a split, and group them into tasks."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.config import IngestConfig, split_fractions
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest
from cxrflow.base.path_rules import label_of, patient_of
from cxrflow.base.schema import HEADER, QUARANTINE, SAMPLES, SOURCE
from cxrflow.base.shard_files import read_shard
from cxrflow.catalog.database import UNCHANGED, insert, query_rows
from cxrflow.catalog.label_spelling import merged_spellings, refuse_variants
from cxrflow.catalog.labels import TRAIN_VAL

# Files in quarantine for these reasons are decoded again, even if unchanged: the machine, the rest of the table, a flag
# or an installed package may have changed since.
RETRIED_REASONS = ("unreadable", "crashed", "in_another_split", "too_large", "unsupported")

# Cost of opening a file and writing its row, expressed in bytes of image data.
FILE_OVERHEAD_BYTES = 2**14

# With fewer patients of a label, quantiles of their hashes would not suit the patients that are added later.
MIN_PATIENTS = 100

# Stands for the label in the split thresholds of a multi-label table.
ALL_LABELS = "*"

# A task may start this far from an even share, as a fraction of a share, if that avoids cutting a shard in two.
MAX_IMBALANCE = 0.15

TASK_FILES = pa.schema(
    [
        *(field for field in SOURCE if field.name != "sha256"),
        *(pa.field(name, pa.string()) for name in ("label", "patient_id", "split")),
        *HEADER,
    ]
)
"""Columns of a decoding task's list of files."""


@dataclass(frozen=True)
class Assignment:
    """The listing, compared with the table."""

    files: int
    bytes: int
    skipped: int | None
    """Hidden files; None if the file system cannot count them."""
    to_decode: int
    bytes_to_decode: int
    missing: int
    """Samples from the images folder whose file no longer exists."""
    thresholds: dict[str, list[float]]
    """See ``Manifest.split_thresholds``."""
    merged: dict[str, str]
    """The label that is used in place of each other spelling of it."""


def add_files(catalog: duckdb.DuckDBPyConnection, config: IngestConfig, batches: Iterator[pa.RecordBatch]) -> None:
    """Add the listing (``listing.LISTING``), with the label and the patient that follow from each path."""
    root = storage.absolute(config.images)
    for batch in batches:
        paths = batch["path"].to_pylist()
        rows = pa.Table.from_batches([batch]).append_column(
            "patient_id", pa.array([patient_of(path, config.patients, root) for path in paths], pa.string())
        )
        if config.labels is None:
            labels = [label_of(path, config.label_rule, root) for path in paths]
            rows = rows.append_column("label", pa.array(labels, pa.string()))
        insert(catalog, "files", rows)


def add_table(catalog: duckdb.DuckDBPyConnection, table: str, manifest: Manifest) -> None:
    """Add the rows of the existing table, without their pixels."""
    columns = [name for name in SAMPLES.names if name not in ("pixels", "height", "width")]
    for shard in manifest.shards:
        rows = read_shard(storage.join(table, shard.path), columns)
        for name, value in (("split", shard.split), ("shard", shard.path)):
            rows = rows.append_column(name, pa.array([value] * rows.num_rows, pa.string()))
        insert(catalog, "samples", rows.append_column("row", pa.array(range(rows.num_rows), pa.int32())))
    for path in manifest.quarantine:
        with storage.open_file(storage.join(table, path)) as file:
            insert(catalog, "quarantine", pq.read_table(file, columns=QUARANTINE.names))
    catalog.execute("UPDATE samples SET is_new = false, split_fixed = true")


def assign_files(
    catalog: duckdb.DuckDBPyConnection, config: IngestConfig, thresholds: dict[str, list[float]]
) -> Assignment:
    """Fill ``to_decode`` with the files to decode, each with its split, and mark the rows that they replace.

    ``thresholds`` are the split thresholds of the existing table. Raises UserError if there is no file, or if the
    splits of the labels file contradict each other or the table.
    """
    listed = query_rows(
        catalog,
        """
        SELECT count(*) FILTER (NOT hidden) AS files, count(*) FILTER (hidden) AS skipped,
            coalesce(sum(size) FILTER (NOT hidden), 0)::BIGINT AS bytes FROM files""",
    )[0]
    if not listed["files"]:
        hidden = f" except {listed['skipped']} hidden ones" if listed["skipped"] else ""
        raise UserError(
            f"--images: expected image files, but there is none below {config.images!r}{hidden}; choose another folder"
        )
    catalog.execute("DELETE FROM files WHERE hidden")
    if config.labels:
        _keep_labels(catalog)
    merged = _merge_spellings(catalog, config) if config.task == "single" else {}
    _check_requested_splits(catalog)
    _find_files_to_decode(catalog)
    thresholds = _assign_splits(catalog, config, thresholds)
    to_decode = query_rows(
        catalog,
        "SELECT count(*) AS to_decode, coalesce(sum(size), 0)::BIGINT AS bytes_to_decode FROM to_decode",
    )[0]
    missing = query_rows(
        catalog,
        """
        SELECT count(*) AS missing FROM samples ANTI JOIN files USING (path)
        WHERE starts_with(samples.path, ?)""",
        [storage.absolute(config.images) + "/"],
    )[0]
    return Assignment(**listed, **to_decode, **missing, thresholds=thresholds, merged=merged)


def _merge_spellings(catalog: duckdb.DuckDBPyConnection, config: IngestConfig) -> dict[str, str]:
    """Give one spelling to labels that differ only in case or blanks; returns ``Assignment.merged``.

    Raises UserError without ``--merge-labels``.
    """
    table, files = (
        {
            row["label"]: row["rows"]
            for row in query_rows(
                catalog, f"SELECT label, count(*) AS rows FROM {name} WHERE label IS NOT NULL GROUP BY label"
            )
        }
        for name in ("samples", "files")
    )
    if not config.merge_labels:
        refuse_variants([*table, *files])
    merged = merged_spellings(table, files)
    for label, chosen in merged.items():
        catalog.execute("UPDATE files SET label = ? WHERE label = ?", [chosen, label])
    return merged


def _keep_labels(catalog: duckdb.DuckDBPyConnection) -> None:
    """Keep the label and patient of an unchanged file that the labels file no longer names.

    A labels file with rows for the new images alone is therefore enough to extend a table.
    """
    catalog.execute("""
        UPDATE files SET label = samples.label, patient_id = samples.patient_id FROM samples
        WHERE files.label IS NULL AND samples.path = files.path AND samples.size = files.size
          AND samples.modified IS NOT DISTINCT FROM files.modified""")


def _find_files_to_decode(catalog: duckdb.DuckDBPyConnection) -> None:
    """Select the files that are new or changed: another size, modification time, label or patient.

    A file in quarantine is decoded again if its reason is in RETRIED_REASONS.
    """
    catalog.execute(
        f"""
        INSERT INTO to_decode BY NAME SELECT path, size, modified, label, patient_id FROM files
        WHERE NOT EXISTS (FROM samples AS old
                          WHERE {UNCHANGED} AND old.label = files.label AND old.patient_id = files.patient_id)
          AND NOT EXISTS (FROM quarantine AS old WHERE {UNCHANGED} AND NOT list_contains(?, old.reason)
                          AND NOT (old.reason = 'unlabelled' AND files.label IS NOT NULL))""",
        [list(RETRIED_REASONS)],
    )
    catalog.execute("DELETE FROM quarantine WHERE path IN (SELECT path FROM to_decode)")
    catalog.execute(
        "INSERT INTO replaced SELECT path, shard, row FROM samples WHERE path IN (SELECT path FROM to_decode)"
    )


def _assign_splits(
    catalog: duckdb.DuckDBPyConnection, config: IngestConfig, existing: dict[str, list[float]]
) -> dict[str, list[float]]:
    """Assign a split to every file to decode, the same to all files of a patient; returns the thresholds to store.

    - A patient of the existing table stays in its split. A split from the labels file is used as given; TRAIN_VAL
      leaves the choice between train and val to the hash.
    - Otherwise the patient's hash, between 0 and 1, is compared with the thresholds of its label. The hash is the first
      12 hexadecimal digits of the SHA-256 of "seed:patient_id", so it does not depend on any other patient. A file that
      counts as its own patient is hashed by its path below the images folder, so moving the folder changes no split.
    - A label without thresholds gets the quantiles that split its current patients exactly. The table stores them for
      later patients. A label with few patients stores the plain fractions instead, which suit later patients better.
    - A multi-label table has too many label combinations for this: all its patients share the label ALL_LABELS.
    """
    label = "files.label" if config.findings is None else f"'{ALL_LABELS}'"
    root = storage.absolute(config.images) + "/"
    catalog.execute(
        f"""
        CREATE TABLE patients AS SELECT *, ('0x' || substr(sha256(? || ':' ||
            if(starts_with(patient_id, ?), substr(patient_id, ?), patient_id)), 1, 12))::BIGINT / 2.0**48 AS hash
        FROM (SELECT patient_id, min({label}) AS label,
                  list(DISTINCT requested_split) FILTER (requested_split IS NOT NULL) AS requested
              FROM files WHERE label IS NOT NULL AND patient_id IN (SELECT patient_id FROM to_decode)
              GROUP BY patient_id)
        LEFT JOIN (SELECT patient_id, min(split) AS current_split FROM samples GROUP BY patient_id) USING (patient_id)
        """,
        [str(config.seed), root, len(root) + 1],
    )
    fractions = split_fractions(config.split)
    thresholds = {**_quantiles(catalog, fractions), **existing}
    catalog.execute("CREATE TABLE thresholds (label VARCHAR, train_end DOUBLE, val_end DOUBLE)")
    if thresholds:
        catalog.executemany(
            "INSERT INTO thresholds VALUES (?, ?, ?)", [[label, *ends] for label, ends in thresholds.items()]
        )
    catalog.execute(
        """
        UPDATE to_decode SET split = assigned.split, split_fixed = assigned.fixed FROM (
            SELECT patient_id, coalesce(current_split, requested[1]) IS NOT NULL AS fixed,
                coalesce(current_split, nullif(requested[1], ?), CASE
                    WHEN requested[1] = ? THEN if(hash * val_end < train_end, 'train', 'val')
                    WHEN hash < train_end THEN 'train' WHEN hash < val_end THEN 'val' ELSE 'test' END) AS split
            FROM patients JOIN thresholds USING (label)) AS assigned
        WHERE assigned.patient_id = to_decode.patient_id""",
        [TRAIN_VAL, TRAIN_VAL],
    )
    few = query_rows(catalog, "SELECT label FROM patients GROUP BY label HAVING count(*) < ?", [MIN_PATIENTS])
    plain = [fractions["train"], fractions["train"] + fractions["val"]]
    return thresholds | {row["label"]: plain for row in few if row["label"] not in existing}


def _check_requested_splits(catalog: duckdb.DuckDBPyConnection) -> None:
    """Raise UserError if the labels file puts a patient into two splits, or into another split than the table does."""
    ambiguous = query_rows(
        catalog,
        """
        SELECT patient_id, list(DISTINCT requested_split) AS splits FROM files
        WHERE requested_split IS NOT NULL AND label IS NOT NULL GROUP BY patient_id HAVING len(splits) > 1 LIMIT 1""",
    )
    if ambiguous:
        raise UserError(
            f"--labels: expected each patient in one split, but patient {ambiguous[0]['patient_id']!r} is in "
            f"{' and '.join(sorted(ambiguous[0]['splits']))}; give all images of a patient the same split"
        )
    moved = query_rows(
        catalog,
        """
        SELECT patient_id, requested_split, split FROM files JOIN samples USING (patient_id)
        WHERE requested_split != split AND NOT (requested_split = ? AND split != 'test') LIMIT 1""",
        [TRAIN_VAL],
    )
    if moved:
        raise UserError(
            f"--labels: expected patient {moved[0]['patient_id']!r} in its current split {moved[0]['split']}, got "
            f"{moved[0]['requested_split']}; a patient never changes its split; overwrite the table with --if-exists "
            "overwrite if it must"
        )


def _quantiles(catalog: duckdb.DuckDBPyConnection, fractions: dict[str, float]) -> dict[str, list[float]]:
    """By label, the quantiles of the patients' hashes that give the fractions."""
    train_end = fractions["train"]
    val_end = train_end + fractions["val"]

    def threshold(fraction: float, quantile: float) -> float:
        return 0.0 if fraction <= 0 else 1.0 if fraction >= 1 - 1e-9 else quantile

    rows = query_rows(
        catalog,
        f"""
        SELECT label, quantile_cont(hash, [{train_end!r}, {min(val_end, 1.0)!r}]) AS ends
        FROM patients GROUP BY label ORDER BY label""",
    )
    return {row["label"]: [threshold(train_end, row["ends"][0]), threshold(val_end, row["ends"][1])] for row in rows}


def write_tasks(catalog: duckdb.DuckDBPyConnection, staging: str, tasks: int, shard_rows: int) -> list[str]:
    """Write the files to decode below ``staging``, one Parquet file of TASK_FILES per task; returns their URLs.

    The files of a split are shuffled by a hash of their path, and each ``shard_rows`` of them fill a shard. Each task
    gets about the same number of bytes and, if the balance allows it, whole shards. Whole shards leave little to merge
    later.
    """
    catalog.execute(
        """
        CREATE TEMP TABLE ordered AS SELECT *, sum(cost) OVER in_order AS end_cost,
            (row_number() OVER (PARTITION BY split ORDER BY hash) - 1) // ? AS shard
        FROM (SELECT path, split, size + ? AS cost, md5(path) AS hash FROM to_decode)
        WINDOW in_order AS (ORDER BY split, hash ROWS UNBOUNDED PRECEDING)""",
        [shard_rows, FILE_OVERHEAD_BYTES],
    )
    shard_ends = query_rows(
        catalog, "SELECT max(end_cost) AS end_cost FROM ordered GROUP BY split, shard ORDER BY end_cost"
    )
    if not shard_ends:
        return []
    starts = task_starts([row["end_cost"] for row in shard_ends], tasks)
    catalog.execute("CREATE TEMP TABLE task_starts (start DOUBLE, task INTEGER)")
    catalog.executemany("INSERT INTO task_starts VALUES (?, ?)", list(zip(starts, range(tasks), strict=True)))
    catalog.execute("""
        UPDATE to_decode SET task = assigned.task FROM (
            SELECT path, task_starts.task FROM ordered
            ASOF JOIN task_starts ON ordered.end_cost - ordered.cost / 2 >= task_starts.start
        ) AS assigned WHERE assigned.path = to_decode.path""")
    urls = []
    for task in range(tasks):
        rows = catalog.sql(
            f"""
            SELECT {", ".join(TASK_FILES.names)} FROM to_decode LEFT JOIN described USING (path)
            WHERE task = ? ORDER BY split, md5(path)""",
            params=[task],
        ).to_arrow_table()
        if rows.num_rows:
            urls.append(storage.join(staging, f"tasks/{task:05d}.parquet"))
            with storage.open_file(urls[-1], "wb") as file:
                pq.write_table(rows, file)
    return urls


def task_starts(shard_ends: list[float], tasks: int) -> list[float]:
    """The cumulative cost at which each task starts: an even share, or a shard's end within MAX_IMBALANCE of it.

    ``shard_ends`` are the cumulative costs at the shards' ends, ascending; the last is the total.
    """
    share = shard_ends[-1] / tasks
    starts = [0.0]
    for task in range(1, tasks):
        ideal = task * share
        after = bisect.bisect(shard_ends, ideal)
        nearest = min(shard_ends[max(0, after - 1) : after + 1], key=lambda end: abs(end - ideal))
        starts.append(float(nearest) if abs(nearest - ideal) <= MAX_IMBALANCE * share else ideal)
    return starts
