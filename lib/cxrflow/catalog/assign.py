"""Before decoding: which files are new, and which label, patient and split each has."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.config import SPLITS, IngestConfig, split_fractions
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest
from cxrflow.base.path_rules import label_of, patient_of
from cxrflow.base.schema import QUARANTINE, SAMPLES, SOURCE
from cxrflow.base.shard_files import read_shard
from cxrflow.catalog.database import insert, values
from cxrflow.catalog.findings_reader import FindingsReader

# Reasons that another try may do away with, though the file is the same: the machine, the rest of the table, a flag or
# an installed package may have changed.
PASSING = ("unreadable", "crashed", "in_another_split", "too_large", "unsupported")

# What a file that is small costs as if it had bytes: opening it, and making a row of it.
FILE_COST = 2**14

# With fewer patients of a label, where their quantiles lie says little of those to come.
FEWEST_PATIENTS = 100

# What stands for the label in the thresholds of a table of several findings.
EVERYONE = "*"

# So far, in parts of an even share, a task's beginning may be moved where that saves cutting a shard in two.
UNEVEN = 0.15


@dataclass(frozen=True)
class Assignment:
    """What the listing says, compared with the table."""

    files: int
    bytes: int
    skipped: int
    """Hidden files."""
    todo: int
    todo_bytes: int
    gone: int
    """Samples below the folder whose file is no longer there."""
    thresholds: dict[str, list[float]]


WORK = pa.schema(
    [
        *(field for field in SOURCE if field.name != "sha256"),
        *(pa.field(name, pa.string()) for name in ("label", "patient_id", "split")),
    ]
)
"""The files that one task decodes."""


def add_files(catalog: duckdb.DuckDBPyConnection, config: IngestConfig, batches: Iterator[pa.RecordBatch]) -> None:
    """Take in the listing (``listing.LISTING``), with the label and the patient that each path tells."""
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


def add_labels(
    catalog: duckdb.DuckDBPyConnection, config: IngestConfig, labels: Iterator[pa.Table], told: FindingsReader | None
) -> None:
    """Take in the labels file: text columns path and label, and optionally patient_id and split; or with ``told`` what that
    makes of its columns.

    Raises UserError where it names an unknown split, contradicts itself or has no line for any file.
    """
    catalog.execute("CREATE TABLE given (path VARCHAR, label VARCHAR, patient_id VARCHAR, split VARCHAR)")
    for rows in labels:
        insert(catalog, "given", rows if told is None else told.as_labels(rows))
    root = storage.absolute(config.images)
    # The same forms that storage.absolute gives the files' own paths; an empty cell is no value.
    catalog.execute(
        r"""
        CREATE TABLE labels AS SELECT DISTINCT
            CASE WHEN regexp_matches(named, '^(/|[A-Za-z][A-Za-z0-9+.-]+:/)') THEN named ELSE ? || '/' || named END AS path,
            nullif(trim(label), '') AS label, nullif(trim(patient_id), '') AS patient_id, nullif(trim(split), '') AS split
        FROM (SELECT *, regexp_replace(regexp_replace(trim(path), '^file:/+', '/'), '^dbfs:/', '/dbfs/') AS named FROM given)
        """,
        [root],
    )
    strange = values(catalog, "SELECT * FROM labels WHERE NOT list_contains(?, split) LIMIT 1", [list(SPLITS)])
    if strange:
        raise UserError(
            f"--labels: expected the split to be one of {', '.join(SPLITS)} or empty, "
            f"got {strange[0]['split']!r} for {strange[0]['path']!r}"
        )
    twice = values(catalog, "SELECT path, count(*) AS lines FROM labels GROUP BY path HAVING lines > 1 LIMIT 1")
    if twice:
        raise UserError(
            f"--labels: expected one line a path, got {twice[0]['lines']} different ones for {twice[0]['path']!r}"
        )
    catalog.execute("""
        UPDATE files SET label = labels.label, patient_id = coalesce(labels.patient_id, files.patient_id),
            given_split = labels.split FROM labels WHERE labels.path = files.path""")
    if not values(catalog, "SELECT path FROM files WHERE label IS NOT NULL LIMIT 1"):
        raise UserError(
            "--labels: expected labels for the images, but no path in the labels file is that of a file "
            "below the images folder; give full paths or paths relative to that folder"
        )


def add_table(catalog: duckdb.DuckDBPyConnection, table: str, manifest: Manifest) -> None:
    """Take in the rows that the table has, without their pixels."""
    columns = [name for name in SAMPLES.names if name not in ("pixels", "height", "width")]
    for shard in manifest.shards:
        rows = read_shard(storage.join(table, shard.path), columns)
        for name, value in (("split", shard.split), ("shard", shard.path)):
            rows = rows.append_column(name, pa.array([value] * rows.num_rows, pa.string()))
        insert(catalog, "samples", rows.append_column("row", pa.array(range(rows.num_rows), pa.int32())))
    for path in manifest.quarantine:
        with storage.open_file(storage.join(table, path)) as file:
            insert(catalog, "quarantine", pq.read_table(file, columns=QUARANTINE.names))
    catalog.execute("UPDATE samples SET fresh = false, fixed = true")


def assign_files(
    catalog: duckdb.DuckDBPyConnection, config: IngestConfig, thresholds: dict[str, list[float]]
) -> Assignment:
    """Fill ``work`` with the files to decode, each with its split, and drop the rows that they stand for.

    ``thresholds`` are those that the table has. Raises UserError where there is no file, or where given splits
    contradict each other or the table.
    """
    listed = values(
        catalog,
        """SELECT count(*) FILTER (NOT hidden) AS files, count(*) FILTER (hidden) AS skipped,
                                       coalesce(sum(size) FILTER (NOT hidden), 0)::BIGINT AS bytes FROM files""",
    )[0]
    if not listed["files"]:
        hidden = f", but {listed['skipped']} hidden ones" if listed["skipped"] else ""
        raise UserError(f"--images: expected image files, but there is none below {config.images!r}{hidden}")
    catalog.execute("DELETE FROM files WHERE hidden")
    if config.labels:
        _keep_labels(catalog)
    _check_given_splits(catalog)
    _find_work(catalog)
    thresholds = _deal_splits(catalog, config, thresholds)
    todo = values(
        catalog,
        """SELECT count(*) AS todo, coalesce(sum(size), 0)::BIGINT AS todo_bytes
                              FROM work""",
    )[0]
    gone = values(
        catalog,
        """SELECT count(*) AS gone FROM samples ANTI JOIN files USING (path)
                              WHERE starts_with(samples.path, ?)""",
        [storage.absolute(config.images) + "/"],
    )[0]
    return Assignment(**listed, **todo, **gone, thresholds=thresholds)


def _keep_labels(catalog: duckdb.DuckDBPyConnection) -> None:
    """A file that the table has keeps its label and patient where the labels file no longer has a line for it: a file
    with the lines of new images alone is as good as one with all."""
    catalog.execute("""
        UPDATE files SET label = samples.label, patient_id = samples.patient_id FROM samples
        WHERE files.label IS NULL AND samples.path = files.path AND samples.size = files.size
          AND samples.modified IS NOT DISTINCT FROM files.modified""")


def _find_work(catalog: duckdb.DuckDBPyConnection) -> None:
    """A file that the table does not hold, or holds of another file under the same path: another size, modification
    time, label or patient. One in quarantine is tried again where its reason may have passed."""
    same = "old.path = files.path AND old.size = files.size AND old.modified IS NOT DISTINCT FROM files.modified"
    catalog.execute(
        f"""
        INSERT INTO work BY NAME SELECT path, size, modified, label, patient_id FROM files
        WHERE NOT EXISTS (FROM samples AS old WHERE {same} AND old.label = files.label AND old.patient_id = files.patient_id)
          AND NOT EXISTS (FROM quarantine AS old WHERE {same} AND NOT list_contains(?, old.reason)
                          AND NOT (old.reason = 'unlabelled' AND files.label IS NOT NULL))""",
        [list(PASSING)],
    )
    catalog.execute("DELETE FROM quarantine WHERE path IN (SELECT path FROM work)")
    catalog.execute("INSERT INTO replaced SELECT path, shard, row FROM samples WHERE path IN (SELECT path FROM work)")


def _deal_splits(
    catalog: duckdb.DuckDBPyConnection, config: IngestConfig, kept: dict[str, list[float]]
) -> dict[str, list[float]]:
    """Give every file to decode a split; all of a patient go to one.

    A patient that the table has already stays where it is. One whose split the labels file names goes there. Any
    other is dealt by where the first 12 hexadecimal digits of the SHA-256 of "seed:patient_id" lie between 0 and 1,
    apart for each label: that does not depend on any other patient. Of a file that is a patient of its own the path
    below the images folder stands for it, so that the same files are dealt alike wherever that folder lies. For a label
    without thresholds they are set so that the shares are exact for the patients at hand. The table keeps them, and so
    the deal of every patient to come; of a label with few patients so far it keeps the plain shares, which suit those to
    come better. Of several findings there are too many combinations for that, so all patients are dealt together, as if
    of one label, EVERYONE.
    """
    label = "files.label" if config.findings is None else f"'{EVERYONE}'"
    root = storage.absolute(config.images) + "/"
    catalog.execute(
        f"""
        CREATE TABLE patients AS SELECT *, ('0x' || substr(sha256(
            ? || ':' || if(starts_with(patient_id, ?), substr(patient_id, ?), patient_id)), 1, 12))::BIGINT / 2.0**48 AS place
        FROM (SELECT patient_id, min({label}) AS label, list(DISTINCT given_split) FILTER (given_split IS NOT NULL) AS given
              FROM files WHERE label IS NOT NULL AND patient_id IN (SELECT patient_id FROM work) GROUP BY patient_id)
        LEFT JOIN (SELECT patient_id, min(split) AS assigned FROM samples GROUP BY patient_id) USING (patient_id)
        """,
        [str(config.seed), root, len(root) + 1],
    )
    thresholds = {**_thresholds(catalog, split_fractions(config.split)), **kept}
    catalog.execute("CREATE TABLE thresholds (label VARCHAR, train_end DOUBLE, val_end DOUBLE)")
    if thresholds:
        catalog.executemany(
            "INSERT INTO thresholds VALUES (?, ?, ?)", [[label, *ends] for label, ends in thresholds.items()]
        )
    catalog.execute("""
        UPDATE work SET split = dealt.split, fixed = dealt.fixed FROM (
            SELECT patient_id, coalesce(assigned, given[1]) IS NOT NULL AS fixed, coalesce(assigned, given[1], CASE
                WHEN place < train_end THEN 'train' WHEN place < val_end THEN 'val' ELSE 'test' END) AS split
            FROM patients JOIN thresholds USING (label)) AS dealt WHERE dealt.patient_id = work.patient_id""")
    few = [
        row["label"]
        for row in values(catalog, "SELECT label FROM patients GROUP BY label HAVING count(*) < ?", [FEWEST_PATIENTS])
        if row["label"] not in kept
    ]
    shares = split_fractions(config.split)
    return thresholds | {label: [shares["train"], shares["train"] + shares["val"]] for label in few}


def _check_given_splits(catalog: duckdb.DuckDBPyConnection) -> None:
    torn = values(
        catalog,
        """SELECT patient_id, list(DISTINCT given_split) AS given FROM files
                              WHERE given_split IS NOT NULL AND label IS NOT NULL GROUP BY patient_id HAVING len(given) > 1 LIMIT 1""",
    )
    if torn:
        raise UserError(
            f"--labels: expected each patient in one split, but patient {torn[0]['patient_id']!r} is in "
            f"{' and '.join(sorted(torn[0]['given']))}; give all images of a patient the same split"
        )
    moved = values(
        catalog,
        """SELECT patient_id, given_split, split FROM files JOIN samples USING (patient_id)
                               WHERE given_split != split LIMIT 1""",
    )
    if moved:
        raise UserError(
            f"--labels: expected patient {moved[0]['patient_id']!r} in {moved[0]['split']}, where the table has "
            f"it, but the labels file says {moved[0]['given_split']}; a patient never changes its split: make the "
            "table anew with --if-exists overwrite if it must"
        )


def _thresholds(catalog: duckdb.DuckDBPyConnection, fractions: dict[str, float]) -> dict[str, list[float]]:
    """Per label, the quantiles of the patients' places that cut them into the wanted shares."""
    train_end = fractions["train"]
    val_end = train_end + fractions["val"]

    def cut(share: float, quantile: float) -> float:
        return 0.0 if share <= 0 else 1.0 if share >= 1 - 1e-9 else quantile

    rows = values(
        catalog,
        f"""SELECT label, quantile_cont(place, [{train_end!r}, {min(val_end, 1.0)!r}]) AS ends
                               FROM patients GROUP BY label ORDER BY label""",
    )
    return {row["label"]: [cut(train_end, row["ends"][0]), cut(val_end, row["ends"][1])] for row in rows}


def write_work(catalog: duckdb.DuckDBPyConnection, staging: str, tasks: int, shard_rows: int) -> list[str]:
    """Write the files to decode as one Parquet file a task below ``staging``; returns their places.

    The files of a split are mixed by a hash of their path; each ``shard_rows`` of them fill a shard. Tasks take their
    share of the bytes, and where it does not make them too unequal whole shards, so that little has to be put
    together later.
    """
    catalog.execute(
        """
        CREATE TEMP TABLE assigned AS SELECT *, sum(cost) OVER in_order AS reached,
            (row_number() OVER (PARTITION BY split ORDER BY mixed) - 1) // ? AS shard
        FROM (SELECT path, split, size + ? AS cost, md5(path) AS mixed FROM work)
        WINDOW in_order AS (ORDER BY split, mixed ROWS UNBOUNDED PRECEDING)""",
        [shard_rows, FILE_COST],
    )
    ends = [
        row["reached"]
        for row in values(
            catalog, "SELECT max(reached) AS reached FROM assigned GROUP BY split, shard ORDER BY reached"
        )
    ]
    if not ends:
        return []
    catalog.execute("CREATE TEMP TABLE cuts (begins DOUBLE, task INTEGER)")
    catalog.executemany("INSERT INTO cuts VALUES (?, ?)", list(zip(cut_tasks(ends, tasks), range(tasks), strict=True)))
    catalog.execute("""
        UPDATE work SET task = shared.task FROM (
            SELECT path, cuts.task FROM assigned ASOF JOIN cuts ON assigned.reached - assigned.cost / 2 >= cuts.begins
        ) AS shared WHERE shared.path = work.path""")
    places = []
    for task in range(tasks):
        rows = catalog.sql(
            f"""SELECT {", ".join(WORK.names)} FROM work WHERE task = ?
                               ORDER BY split, md5(path)""",
            params=[task],
        ).to_arrow_table()
        if rows.num_rows:
            places.append(storage.join(staging, f"work/{task:05d}.parquet"))
            with storage.open_file(places[-1], "wb") as file:
                pq.write_table(rows, file)
    return places


def cut_tasks(shard_ends: list[float], tasks: int) -> list[float]:
    """Where each task begins, in bytes from the first: at even shares, or where a shard ends within UNEVEN of one from
    there. ``shard_ends``: where each shard ends, ascending; the last is the sum of all."""
    share = shard_ends[-1] / tasks
    begins = [0.0]
    for task in range(1, tasks):
        wanted = task * share
        after = bisect.bisect(shard_ends, wanted)
        near = min(shard_ends[max(0, after - 1) : after + 1], key=lambda end: abs(end - wanted))
        begins.append(float(near) if abs(near - wanted) <= UNEVEN * share else wanted)
    return begins
