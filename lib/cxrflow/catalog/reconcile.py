"""After decoding: put equal content into one split, and check that every file is accounted for."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Shard
from cxrflow.base.schema import QUARANTINE
from cxrflow.base.shard_files import checksum, count_labels
from cxrflow.catalog.database import query_rows
from cxrflow.images import REASONS


@dataclass(frozen=True)
class Reconciled:
    """The outcome of decoding, and the changes that the shards need."""

    staged: list[Shard]
    """The shards that the tasks wrote."""
    changes: list[tuple[str, int, str | None]]
    """(staged shard, row, new split or None for quarantine) of each row that must leave its shard."""
    replaced_rows: dict[str, list[int]]
    """By shard of the existing table, the rows whose file was decoded again."""
    reasons: dict[str, int]
    """Files in quarantine by reason."""
    added: int
    """New samples of files that the table did not have."""
    replaced: int
    """New samples that replace older ones of the same path."""


def add_outcomes(catalog: duckdb.DuckDBPyConnection, urls: list[str]) -> None:
    """Add what the decoding tasks report for each file (``spark.decode_task.OUTCOME``)."""
    catalog.execute("DELETE FROM samples WHERE path IN (SELECT path FROM to_decode)")
    for url in urls:
        with storage.open_file(url) as file:
            rows = pq.read_table(file)
        catalog.register("outcomes", rows)
        catalog.execute("""
            INSERT INTO samples BY NAME
            SELECT outcomes.* EXCLUDE (reason, detail, height, width), true AS is_new, to_decode.split_fixed
            FROM outcomes JOIN to_decode USING (path) WHERE outcomes.reason IS NULL""")
        catalog.execute("""
            INSERT INTO quarantine BY NAME SELECT path, size, modified, sha256, reason, detail FROM outcomes
            WHERE reason IS NOT NULL""")
        catalog.unregister("outcomes")


def add_unread(catalog: duckdb.DuckDBPyConnection) -> None:
    """Quarantine the files for which no task reported an outcome: Spark skips files that it cannot read."""
    catalog.execute("""
        INSERT INTO quarantine BY NAME
        SELECT path, size, modified, 'unreadable' AS reason, 'Spark could not read it' AS detail FROM to_decode
        WHERE path NOT IN (SELECT path FROM samples UNION ALL SELECT path FROM quarantine)""")


def reconcile(catalog: duckdb.DuckDBPyConnection, max_bad: float | None, task: str = "single") -> Reconciled:
    """Move equal content into one split, and check that every file is either a sample or in quarantine.

    ``max_bad`` is the accepted fraction of unusable files; ``task`` is the manifest's. Raises UserError if more files
    are unusable, or all of them, and RuntimeError if a listed file has no row or more than one.
    """
    staged = _staged_shards(catalog, task)
    replaced_rows = {
        row["shard"]: row["rows"]
        for row in query_rows(catalog, "SELECT shard, list(row) AS rows FROM replaced GROUP BY shard")
    }
    changes = _reconcile_splits(catalog)
    _check_files(catalog)
    reasons = {
        row["reason"]: row["files"]
        for row in query_rows(
            catalog, "SELECT reason, count(*) AS files FROM quarantine GROUP BY reason ORDER BY reason"
        )
    }
    _check_max_bad(catalog, max_bad)
    counts = query_rows(
        catalog,
        """
        SELECT count(*) FILTER (replaced.path IS NULL) AS added, count(replaced.path) AS replaced
        FROM samples LEFT JOIN replaced USING (path) WHERE is_new""",
    )[0]
    return Reconciled(staged=staged, changes=changes, replaced_rows=replaced_rows, reasons=reasons, **counts)


QUARANTINE_FILE = "quarantine/files.parquet"


def write_quarantine(catalog: duckdb.DuckDBPyConnection, staging: str) -> None:
    """Write the whole quarantine as QUARANTINE_FILE below ``staging``."""
    rows = catalog.sql(f"SELECT {', '.join(QUARANTINE.names)} FROM quarantine ORDER BY path").to_arrow_table()
    with storage.open_file(storage.join(staging, QUARANTINE_FILE), "wb") as file:
        pq.write_table(rows.cast(QUARANTINE), file, compression="zstd")


def _staged_shards(catalog: duckdb.DuckDBPyConnection, task: str) -> list[Shard]:
    rows = query_rows(
        catalog,
        """
        SELECT shard, split, map_from_entries(list({k: label, v: rows})) AS labels, sum(rows)::BIGINT AS rows,
            bit_xor(ids) AS ids
        FROM (SELECT shard, split, label, count(*) AS rows, bit_xor(sample_id) AS ids FROM samples WHERE is_new
              GROUP BY shard, split, label ORDER BY label) GROUP BY shard, split""",
    )
    return [
        Shard(
            path=row["shard"],
            split=row["split"],
            rows=row["rows"],
            checksum=checksum(row["ids"]),
            **count_labels(row["labels"], task),
        )
        for row in rows
    ]


def _reconcile_splits(catalog: duckdb.DuckDBPyConnection) -> list[tuple[str, int, str | None]]:
    """Move files with the same content into one split: otherwise the test split would contain training images.

    Patients who share content form a group. The whole group goes to the split of its first patient by id, or of its
    first patient with a fixed split. If fixed splits conflict, the content stays in the split of the sample that was
    there before, or is first by path, and the other samples go to quarantine.

    Returns ``Reconciled.changes``.
    """
    catalog.execute("""
        CREATE TEMP TABLE shared_content AS SELECT DISTINCT sha256, patient_id FROM samples
        WHERE sha256 IN (SELECT sha256 FROM samples GROUP BY sha256 HAVING count(DISTINCT patient_id) > 1)""")
    _group_patients(catalog)
    catalog.execute("""
        CREATE TEMP TABLE grouped AS
        SELECT samples.shard, samples.row, samples.path, samples.split, samples.sha256, samples.is_new,
            CASE WHEN samples.split_fixed THEN samples.split ELSE leaders.split END AS group_split
        FROM samples JOIN patient_groups USING (patient_id) JOIN (
            SELECT leader, arg_min(split, (NOT split_fixed, patient_id)) AS split
            FROM samples JOIN patient_groups USING (patient_id) GROUP BY leader) AS leaders USING (leader)""")
    catalog.execute("""
        CREATE TEMP TABLE changes AS
        SELECT shard, row, path, CASE WHEN coalesce(owner, group_split) = group_split THEN group_split END AS new_split
        FROM grouped LEFT JOIN (
            SELECT sha256, arg_min(group_split, (is_new, path)) AS owner FROM grouped
            WHERE sha256 IN (SELECT sha256 FROM shared_content) GROUP BY sha256) USING (sha256)
        WHERE is_new AND new_split IS DISTINCT FROM split""")
    catalog.execute("""
        INSERT INTO quarantine BY NAME SELECT path, size, modified, sha256, 'in_another_split' AS reason,
            'the same content is in another split, under another patient whose split is fixed' AS detail
        FROM samples WHERE path IN (SELECT path FROM changes WHERE new_split IS NULL)""")
    catalog.execute("DELETE FROM samples WHERE path IN (SELECT path FROM changes WHERE new_split IS NULL)")
    catalog.execute("UPDATE samples SET split = new_split FROM changes WHERE changes.path = samples.path")
    return [(row["shard"], row["row"], row["new_split"]) for row in query_rows(catalog, "FROM changes")]


def _group_patients(catalog: duckdb.DuckDBPyConnection) -> None:
    """Create patient_groups (patient_id, leader): connected components of patients who share content.

    The leader is the group's first patient id. Each round, every patient takes the first leader among the patients it
    shares content with. Two or three rounds are usual; the worst case is the length of the longest chain.
    """
    catalog.execute(
        "CREATE TEMP TABLE patient_groups AS SELECT DISTINCT patient_id, patient_id AS leader FROM shared_content"
    )
    while True:
        changed = catalog.execute("""
            UPDATE patient_groups SET leader = neighbours.leader FROM (
                SELECT shared_content.patient_id, min(by_content.leader) AS leader FROM shared_content JOIN (
                    SELECT sha256, min(leader) AS leader FROM shared_content JOIN patient_groups USING (patient_id)
                    GROUP BY sha256
                ) AS by_content USING (sha256) GROUP BY shared_content.patient_id) AS neighbours
            WHERE neighbours.patient_id = patient_groups.patient_id
              AND neighbours.leader < patient_groups.leader""").fetchone()
        if changed == (0,):
            return


def _check_files(catalog: duckdb.DuckDBPyConnection) -> None:
    """Raise RuntimeError unless each listed file is in exactly one row of the table."""
    rows = "(SELECT path FROM samples UNION ALL SELECT path FROM quarantine)"
    lost = query_rows(catalog, f"SELECT count(*) AS files FROM files ANTI JOIN {rows} AS rows USING (path)")[0]["files"]
    repeated = len(query_rows(catalog, f"SELECT path FROM {rows} GROUP BY path HAVING count(*) > 1"))
    if lost or repeated:
        raise RuntimeError(
            f"{lost} of the listed files are neither a sample nor in quarantine, and {repeated} have more than "
            "one row; nothing was committed. Did the folder change during the ingest? Run the job again"
        )


def _check_max_bad(catalog: duckdb.DuckDBPyConnection, max_bad: float | None) -> None:
    listed = query_rows(catalog, "SELECT count(*) AS files FROM files")[0]["files"]
    reasons = query_rows(
        catalog,
        """
        SELECT reason, count(*) AS files FROM quarantine SEMI JOIN files USING (path)
        GROUP BY reason ORDER BY files DESC, reason""",
    )
    bad = sum(row["files"] for row in reasons)
    if listed and bad == listed:
        summary = ", ".join(f"{row['reason']}: {row['files']}" for row in reasons)
        raise UserError(f"--images: expected readable images, got only unusable files, {bad} of {listed} ({summary})")
    if max_bad is not None and bad > max_bad * listed:
        summary = "\n".join(f"  {row['reason']:<18}{row['files']:>9,}  {REASONS[row['reason']]}" for row in reasons)
        raise UserError(
            f"--max-bad: expected at most {max_bad:.1%} unusable files, got {bad:,} of {listed:,} ({bad / listed:.1%})"
            f"; the table was not changed. Repair the files or raise the limit:\n{summary}"
        )
