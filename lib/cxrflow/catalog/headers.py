"""How images were taken: choose the files whose DICOM header is read, and describe each file by what is known of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.config import NONE
from cxrflow.base.image_columns import IMAGE_COLUMNS, STATED_COLUMNS
from cxrflow.base.schema import HEADER, SOURCE
from cxrflow.catalog.assign import RETRIED_REASONS
from cxrflow.catalog.database import UNCHANGED, insert, query_rows

SCAN_FILES = pa.schema([column for column in SOURCE if column.name != "sha256"])
"""Columns of a scanning task's list of files."""

SCANNED = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("is_dicom", pa.bool_()),
        pa.field("patient_id", pa.string()),  # a keyed hash
        *HEADER,
    ]
)
"""What a scanning task reports for each file."""

WORD = re.compile(r"[^\s,'\"<>=!]+")
"""A value that needs no quotes in a selection."""

FILES_PER_TASK = 5000
"""A header takes about a millisecond."""

_OTHER_FORMATS = r"\.(png|jpe?g|jpe|jfif|jp2|j2k|jxl|tiff?|bmp|gif|webp)$"
"""Names of files that are taken for another format than DICOM without a look at their content."""


XRAY = ("CR", "DX", "DR", "RG", "XR")
"""Modalities of projection radiographs. DX, CR and RG are the standard's; DR and XR are used as well."""
CHEST = ("CHEST", "THORAX", "LUNG")
FRONTAL = ("PA", "AP")
MIXED: dict[str, Callable[[str], bool]] = {
    "modality": lambda value: value in XRAY,
    "view_position": lambda value: value.startswith(FRONTAL),
    "body_part": lambda value: any(name in value for name in CHEST),
}
"""By column, whether a value is usual in a collection of frontal chest X-rays."""


@dataclass(frozen=True)
class HeaderCounts:
    """What is known of the files to decode, from headers and from the labels file."""

    dicom: int = 0
    """Files that are DICOM."""
    without_header: int = 0
    """Files whose header cannot be read, and which are or may be DICOM."""
    without_patient: int = 0
    """DICOM files without a usable Patient ID, if patients come from headers."""
    taken: dict[str, dict[str, int]] = field(default_factory=dict)
    """Files by value of each of MIXED, for the files of which a value is known."""
    disagreements: dict[str, int] = field(default_factory=dict)
    """Files for which the labels file states another value than the header, by column. The header's value is used."""


def patients_from_headers(catalog: duckdb.DuckDBPyConnection, rule: str, fingerprint: str) -> bool:
    """Whether the patients of DICOM files come from their headers. ``rule`` is ``--patients``.

    With the rule auto they do, unless the table to extend has DICOM files whose patients came from file names.
    ``fingerprint`` is its manifest's: empty if no patient came from a header.
    """
    if rule != "auto" or fingerprint:
        return rule in ("auto", "dicom")
    return not query_rows(catalog, "SELECT path FROM samples WHERE source_format = 'DICOM' LIMIT 1")


def write_scan_tasks(
    catalog: duckdb.DuckDBPyConnection, staging: str, slots: int, all_names: bool = False
) -> list[str]:
    """Write lists of the files whose header must be read, below ``staging``; returns their URLs.

    These are the files that are new or changed, and those whose label or patient changed in the labels file. Files
    whose name says that they are no DICOM files are among them only with ``all_names``.
    """
    catalog.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE to_scan AS SELECT path, size, modified, row_number() OVER (ORDER BY path) AS number
        FROM files WHERE NOT hidden AND (? OR NOT regexp_matches(path, ?, 'i'))
          AND NOT EXISTS (FROM samples AS old WHERE {UNCHANGED}
                          AND (files.label IS NULL OR old.label = files.label)
                          AND (files.given_patient IS NULL OR old.patient_id = files.given_patient))
          AND NOT EXISTS (FROM quarantine AS old WHERE {UNCHANGED} AND NOT list_contains(?, old.reason)
                          AND NOT (old.reason = 'unlabelled' AND files.label IS NOT NULL))""",
        [all_names, _OTHER_FORMATS, list(RETRIED_REASONS)],
    )
    files = query_rows(catalog, "SELECT count(*) AS files FROM to_scan")[0]["files"]
    tasks = min(files, slots * max(1, -(-files // (slots * FILES_PER_TASK))))
    urls = []
    for task in range(tasks):
        rows = catalog.sql(
            f"SELECT {', '.join(SCAN_FILES.names)} FROM to_scan WHERE number % ? = ? ORDER BY number",
            params=[tasks, task],
        ).to_arrow_table()
        urls.append(storage.join(staging, f"scans/{task:05d}.parquet"))
        with storage.open_file(urls[-1], "wb") as file:
            pq.write_table(rows, file)
    return urls


def add_headers(catalog: duckdb.DuckDBPyConnection, urls: Sequence[str]) -> None:
    """Add what the scanning tasks report (SCANNED)."""
    for url in urls:
        with storage.open_file(url) as file:
            insert(catalog, "headers", pq.read_table(file))


def set_patients(catalog: duckdb.DuckDBPyConnection, rule: str) -> None:
    """Give files without a patient in the labels file the patient of their header.

    With the rule auto, only DICOM files. A file without a usable id counts as its own patient. A file that the table
    has unchanged keeps its patient, because its header was not read again.
    """
    is_auto = rule == "auto"
    catalog.execute(
        """
        UPDATE files SET patient_id = coalesce(headers.patient_id, files.path) FROM headers
        WHERE headers.path = files.path AND files.given_patient IS NULL AND (headers.is_dicom OR NOT ?)""",
        [is_auto],
    )
    catalog.execute(
        f"""
        UPDATE files SET patient_id = old.patient_id FROM samples AS old
        WHERE {UNCHANGED} AND files.given_patient IS NULL AND (old.source_format = 'DICOM' OR NOT ?)
          AND files.path NOT IN (SELECT path FROM headers)""",
        [is_auto],
    )


def describe_files(catalog: duckdb.DuckDBPyConnection, by_header: bool = False) -> HeaderCounts:
    """Fill ``described`` for the files with a header or with a statement of the labels file.

    A value of the labels file counts where the header has none. ``by_header``: patients come from headers.
    """
    columns = ", ".join(
        f"coalesce(headers.{name}, stated.{name}) AS {name}" if name in STATED_COLUMNS else name
        for name in IMAGE_COLUMNS
    )
    catalog.execute(
        f"""
        INSERT INTO described BY NAME SELECT path, coalesce(is_dicom, false) AS is_dicom, {columns}
        FROM headers FULL JOIN stated USING (path)"""
    )
    # Ages are given in whole years, before or after the birthday.
    differ = {
        name: f"abs(headers.{name} - stated.{name}) > 1" if kind == "number" else f"headers.{name} != stated.{name}"
        for name, kind in IMAGE_COLUMNS.items()
        if name in STATED_COLUMNS
    }
    counts = ", ".join(f"count(*) FILTER ({condition}) AS {name}" for name, condition in differ.items())
    disagreements = query_rows(catalog, f"SELECT {counts} FROM headers JOIN stated USING (path)")[0]
    dicom = query_rows(
        catalog,
        """
        SELECT count(*) FILTER (is_dicom) AS dicom,
            count(*) FILTER (is_dicom IS NULL OR
                coalesce(modality, sop_uid, study_uid, photometric_interpretation) IS NULL) AS without_header,
            count(*) FILTER (? AND is_dicom AND headers.patient_id IS NULL AND given_patient IS NULL) AS without_patient
        FROM headers JOIN files USING (path) WHERE is_dicom IS DISTINCT FROM false""",
        [by_header],
    )[0]
    return HeaderCounts(
        **dicom,
        taken={name: _taken(catalog, name) for name in MIXED},
        disagreements={name: files for name, files in disagreements.items() if files},
    )


def _taken(catalog: duckdb.DuckDBPyConnection, column: str) -> dict[str, int]:
    rows = query_rows(
        catalog,
        f"""
        SELECT coalesce({column}, '{NONE}') AS value, count(*) AS files FROM described
        WHERE is_dicom OR {column} IS NOT NULL GROUP BY value ORDER BY files DESC, value LIMIT 20""",
    )
    return {row["value"]: row["files"] for row in rows}


def suggest_selection(taken: dict[str, dict[str, int]]) -> tuple[dict[str, dict[str, int]], str]:
    """The columns with values that are unusual in a collection of frontal chest X-rays, and a selection without them.

    ``taken`` as in HeaderCounts. If all values of a column are unusual, the selection has the most frequent one.
    """
    unusual, conditions = {}, []
    for column, counts in taken.items():
        values = [value for value in counts if value != NONE]
        if all(map(MIXED[column], values)):
            continue
        usual = list(filter(MIXED[column], values)) or values[:1]
        if NONE in counts and column != "modality":
            usual.append(NONE)
        unusual[column] = counts
        conditions.append(f"{column} in {','.join(value if WORD.fullmatch(value) else repr(value) for value in usual)}")
    return unusual, " and ".join(conditions)
