"""After decoding: no content in two splits, every file accounted for, and what that asks of the shards."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Shard
from cxrflow.base.schema import QUARANTINE
from cxrflow.base.shard_files import checksum, count_labels
from cxrflow.catalog.database import values
from cxrflow.images import REASONS


@dataclass(frozen=True)
class Reconciled:
    """What came of the files that were decoded."""

    staged: list[Shard]
    """The shards that tasks wrote, as they wrote them."""
    changes: list[tuple[str, int, str | None]]
    """(staged shard, row, the split it goes to or None for quarantine) of rows that cannot stay where they are."""
    outdated: dict[str, list[int]]
    """By shard of the table, the rows whose file was done anew."""
    reasons: dict[str, int]
    """Files in quarantine, by reason."""
    added: int
    """New samples, those in place of older ones not counted."""
    replaced: int
    """New samples in place of older ones of the same path."""


def add_outcomes(catalog: duckdb.DuckDBPyConnection, places: list[str]) -> None:
    """Take in what the decoding tasks say of each file (``spark.decode.OUTCOME``)."""
    catalog.execute("DELETE FROM samples WHERE path IN (SELECT path FROM work)")
    for place in places:
        with storage.open_file(place) as file:
            rows = pq.read_table(file)
        catalog.register("outcomes", rows)
        catalog.execute("""
            INSERT INTO samples BY NAME SELECT outcomes.* EXCLUDE (reason, detail, height, width), true AS fresh, work.fixed
            FROM outcomes JOIN work USING (path) WHERE outcomes.reason IS NULL""")
        catalog.execute("""
            INSERT INTO quarantine BY NAME SELECT path, size, modified, sha256, reason, detail FROM outcomes
            WHERE reason IS NOT NULL""")
        catalog.unregister("outcomes")


def add_unread(catalog: duckdb.DuckDBPyConnection) -> None:
    """Quarantine the files that Spark did not hand over: it passes over those that it cannot read."""
    catalog.execute("""
        INSERT INTO quarantine BY NAME SELECT path, size, modified, 'unreadable' AS reason, 'Spark could not read it' AS detail
        FROM work WHERE path NOT IN (SELECT path FROM samples UNION ALL SELECT path FROM quarantine)""")


def reconcile(catalog: duckdb.DuckDBPyConnection, max_bad: float | None, task: str = "single") -> Reconciled:
    """Bring every content into one split, and check that no file was lost.

    ``task``: the manifest's. Raises UserError where more files are bad than ``max_bad``, or none is good; RuntimeError where the rows do not
    reconcile with the listing.
    """
    staged = _staged_shards(catalog, task)
    outdated = {
        row["shard"]: row["rows"]
        for row in values(catalog, "SELECT shard, list(row) AS rows FROM replaced GROUP BY shard")
    }
    changes = _settle_splits(catalog)
    _reconcile(catalog)
    reasons = {
        row["reason"]: row["files"]
        for row in values(catalog, "SELECT reason, count(*) AS files FROM quarantine GROUP BY reason ORDER BY reason")
    }
    _check_bad(catalog, max_bad)
    new = values(
        catalog,
        """SELECT count(*) FILTER (replaced.path IS NULL) AS added, count(replaced.path) AS replaced
                             FROM samples LEFT JOIN replaced USING (path) WHERE fresh""",
    )[0]
    return Reconciled(staged=staged, changes=changes, outdated=outdated, reasons=reasons, **new)


QUARANTINE_FILE = "quarantine/files.parquet"


def write_quarantine(catalog: duckdb.DuckDBPyConnection, staging: str) -> None:
    """Write the whole quarantine as QUARANTINE_FILE below ``staging``."""
    rows = catalog.sql(f"SELECT {', '.join(QUARANTINE.names)} FROM quarantine ORDER BY path").to_arrow_table()
    with storage.open_file(storage.join(staging, QUARANTINE_FILE), "wb") as file:
        pq.write_table(rows.cast(QUARANTINE), file, compression="zstd")


def _staged_shards(catalog: duckdb.DuckDBPyConnection, task: str) -> list[Shard]:
    rows = values(
        catalog,
        """
        SELECT shard, split, map_from_entries(list({k: label, v: rows})) AS labels, sum(rows)::BIGINT AS rows, bit_xor(ids) AS ids
        FROM (SELECT shard, split, label, count(*) AS rows, bit_xor(sample_id) AS ids FROM samples WHERE fresh
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


def _settle_splits(catalog: duckdb.DuckDBPyConnection) -> list[tuple[str, int, str | None]]:
    """The same content under several names must end in one split: otherwise the test split holds what training saw.

    Patients that share a content are taken as one: they go where the first of them by key goes, or the first of those
    whose split is fixed. Where two fixed ones are in different splits, the content stays in that of the row which
    was there before, or is first by path, and the others go to quarantine.
    """
    catalog.execute("""
        CREATE TEMP TABLE shared AS SELECT DISTINCT sha256, patient_id FROM samples
        WHERE sha256 IN (SELECT sha256 FROM samples GROUP BY sha256 HAVING count(DISTINCT patient_id) > 1)""")
    _group_patients(catalog)
    catalog.execute("""
        CREATE TEMP TABLE moves AS SELECT samples.shard, samples.row, samples.path, samples.split, samples.sha256, samples.fresh,
            CASE WHEN samples.fixed THEN samples.split ELSE leaders.split END AS settled
        FROM samples JOIN groups USING (patient_id) JOIN (
            SELECT leader, arg_min(split, (NOT fixed, patient_id)) AS split FROM samples JOIN groups USING (patient_id)
            GROUP BY leader) AS leaders USING (leader)""")
    catalog.execute("""
        CREATE TEMP TABLE changes AS SELECT shard, row, path, CASE WHEN coalesce(owner, settled) = settled THEN settled END AS final
        FROM moves LEFT JOIN (SELECT sha256, arg_min(settled, (fresh, path)) AS owner FROM moves
                              WHERE sha256 IN (SELECT sha256 FROM shared) GROUP BY sha256) USING (sha256)
        WHERE fresh AND final IS DISTINCT FROM split""")
    catalog.execute("""
        INSERT INTO quarantine BY NAME SELECT path, size, modified, sha256, 'in_another_split' AS reason,
            'the same content is in another split, under another patient whose split is fixed' AS detail
        FROM samples WHERE path IN (SELECT path FROM changes WHERE final IS NULL)""")
    catalog.execute("DELETE FROM samples WHERE path IN (SELECT path FROM changes WHERE final IS NULL)")
    catalog.execute("UPDATE samples SET split = final FROM changes WHERE changes.path = samples.path")
    return [(row["shard"], row["row"], row["final"]) for row in values(catalog, "FROM changes")]


def _group_patients(catalog: duckdb.DuckDBPyConnection) -> None:
    """groups (patient_id, leader): patients who share a content, also over others, have the same leader, the first key.

    Each round lets every patient take the first leader among those it shares a content with; two or three rounds are
    usual, as many as the longest chain has links at worst.
    """
    catalog.execute("CREATE TEMP TABLE groups AS SELECT DISTINCT patient_id, patient_id AS leader FROM shared")
    while True:
        changed = catalog.execute("""
            UPDATE groups SET leader = nearer.leader FROM (
                SELECT shared.patient_id, min(first.leader) AS leader FROM shared JOIN (
                    SELECT sha256, min(leader) AS leader FROM shared JOIN groups USING (patient_id) GROUP BY sha256
                ) AS first USING (sha256) GROUP BY shared.patient_id) AS nearer
            WHERE nearer.patient_id = groups.patient_id AND nearer.leader < groups.leader""").fetchone()[0]
        if not changed:
            return


def _reconcile(catalog: duckdb.DuckDBPyConnection) -> None:
    """Raise RuntimeError unless each listed file is in exactly one row of the table."""
    rows = "(SELECT path FROM samples UNION ALL SELECT path FROM quarantine)"
    lost = values(catalog, f"SELECT count(*) AS files FROM files ANTI JOIN {rows} AS rows USING (path)")[0]["files"]
    twice = len(values(catalog, f"SELECT path FROM {rows} GROUP BY path HAVING count(*) > 1"))
    if lost or twice:
        raise RuntimeError(
            f"{lost} of the listed files are neither a sample nor in quarantine and {twice} are there more "
            "than once; nothing was committed. Did the folder change while it was read? Run the job again"
        )


def _check_bad(catalog: duckdb.DuckDBPyConnection, max_bad: float | None) -> None:
    listed = values(catalog, "SELECT count(*) AS files FROM files")[0]["files"]
    reasons = values(
        catalog,
        """SELECT reason, count(*) AS files FROM quarantine SEMI JOIN files USING (path)
                                 GROUP BY reason ORDER BY files DESC, reason""",
    )
    bad = sum(row["files"] for row in reasons)
    if bad == listed:
        table = ", ".join(f"{row['reason']}: {row['files']}" for row in reasons)
        raise UserError(f"--images: expected readable images, but none of {bad} files gave one ({table})")
    if max_bad is not None and bad > max_bad * listed:
        table = "\n".join(f"  {row['reason']:<18}{row['files']:>9,}  {REASONS[row['reason']]}" for row in reasons)
        raise UserError(
            f"--max-bad: {bad:,} of {listed:,} files ({bad / listed:.1%}) cannot be used, more than {max_bad:.1%}; "
            f"the table was left as it was. Mend the files or raise the limit:\n{table}"
        )
