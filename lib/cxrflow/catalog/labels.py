"""The labels of an ingest: read the labels file by its layout, match its rows with files, label the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import duckdb
import pyarrow as pa

from cxrflow.base.config import SPLITS, IngestConfig
from cxrflow.base.errors import UserError
from cxrflow.base.image_columns import STATED_COLUMNS
from cxrflow.base.schema import HEADER
from cxrflow.catalog.database import insert, query_rows
from cxrflow.catalog.findings_reader import FindingsReader
from cxrflow.catalog.label_formats import ImageLabels, LabelSource, find_format
from cxrflow.catalog.label_formats.cells import is_list, parse_list
from cxrflow.catalog.label_matching import LabelMatches, match_labels
from cxrflow.catalog.labels_csv import LabelsFile
from cxrflow.images.dcm.header_columns import MAX_AGE

TRAIN_VAL = "train_val"
"""The split of an image that its collection keeps out of the test set; ingest assigns it to train or val by patient."""

_BATCH_ROWS = 10_000
_LABEL_ROWS = pa.schema(
    [
        pa.field("row", pa.int64()),  # unique; MIMIC's images of one study are in the same line
        pa.field("line", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("key", "label", "patient_id", "split")),
        *(field for field in HEADER if field.name in STATED_COLUMNS),
    ]
)


@dataclass(frozen=True)
class LabelFiles:
    """Where the labels file is, for a process on an executor."""

    url: str
    beside: dict[str, str]
    """URLs of the other files of its folder, by name."""


@dataclass(frozen=True)
class LabelsSummary:
    """What was read from the labels file."""

    title: str
    """The layout's name, for people."""
    counts: dict[str, int]
    """What each rule of the layout did."""
    matches: LabelMatches


def resolve_findings(config: IngestConfig, file: LabelsFile) -> str | None:
    """``--findings``, or ``all`` if the labels file has a layout with several findings per image.

    Raises UserError for an unknown layout, and if the layout has one label per image but findings are requested.
    """
    layout = find_format(file, config.label_format)
    if layout.has_findings is False and config.findings is not None:
        raise UserError(
            f"--findings: expected no value, because {layout.title} has one label per image; got {config.findings!r}"
        )
    return config.findings or ("all" if layout.has_findings else None)


def add_labels(
    catalog: duckdb.DuckDBPyConnection, config: IngestConfig, files: LabelFiles, reader: FindingsReader | None
) -> LabelsSummary:
    """Give the files of the catalog the label, patient and split that the labels file says.

    For a multi-label table, ``reader`` converts findings to label texts. Raises UserError if the file cannot be read,
    contradicts itself, may mean several files with one row, or has no row for any file.
    """
    main, counts = LabelsFile(files.url), Counter[str]()
    layout = find_format(main, config.label_format)
    source = LabelSource(main, files.beside, readers=config.readers)
    catalog.execute("""
        CREATE TABLE given (row BIGINT, line BIGINT, key VARCHAR, label VARCHAR, patient_id VARCHAR, split VARCHAR,
            patient_sex VARCHAR, patient_age FLOAT, view_position VARCHAR)""")
    rows = ({"row": row, **_row(labels, reader, source)} for row, labels in enumerate(layout.read(source, counts)))
    while batch := list(islice(rows, _BATCH_ROWS)):
        insert(catalog, "given", pa.Table.from_pylist(batch, schema=_LABEL_ROWS))
    matches = match_labels(catalog, config.images)
    _require_agreement(catalog)
    catalog.execute("""
        UPDATE files SET label = given.label, patient_id = coalesce(given.patient_id, files.patient_id),
            given_patient = given.patient_id, requested_split = given.split
        FROM matches JOIN given USING (row) WHERE matches.path = files.path""")
    catalog.execute("""
        INSERT INTO stated SELECT DISTINCT path, patient_sex, patient_age, view_position
        FROM matches JOIN given USING (row) WHERE coalesce(patient_sex, patient_age::VARCHAR, view_position) IS NOT NULL
        """)
    if not query_rows(catalog, "SELECT path FROM files WHERE label IS NOT NULL LIMIT 1"):
        raise UserError(
            f"--labels: expected labels for the images, but no row of {main.url!r} names a labelled file below "
            f"{config.images!r}; its rows name files such as {', '.join(matches.first_rows_without_file[:3])}, and "
            f"the folder has files such as {', '.join(matches.first_files_without_row[:3])}"
        )
    return LabelsSummary(layout.title, {what: number for what, number in counts.items() if number}, matches)


def _row(labels: ImageLabels, reader: FindingsReader | None, source: LabelSource) -> dict:
    if labels.split is not None and labels.split not in (*SPLITS, TRAIN_VAL):
        raise _error(source, labels, f"the split to be one of {', '.join(SPLITS)} or empty, got {labels.split!r}")
    try:
        text = _single_label(labels) if reader is None else reader.to_text(labels)
    except UserError as error:
        raise _error(source, labels, str(error).removeprefix("expected ")) from None
    return {
        "line": labels.line,
        "key": labels.key,
        "label": text,
        "patient_id": labels.patient_id,
        "split": labels.split,
        "patient_sex": labels.sex,
        "patient_age": labels.age if labels.age is not None and labels.age <= MAX_AGE else None,
        "view_position": labels.view_position and labels.view_position.upper(),
    }


def _single_label(labels: ImageLabels) -> str | None:
    if labels.cells is not None:
        raise UserError(
            "expected a column label, got one column for each finding: "
            + ", ".join(labels.cells)
            + "; add --findings all"
        )
    if labels.label is None or not is_list(labels.label):
        return labels.label
    names = parse_list(labels.label)
    if len(names) > 1:
        raise UserError(f"expected one label, got the list {labels.label}; add --findings all")
    return names[0] if names else None


def _error(source: LabelSource, labels: ImageLabels, expected: str) -> UserError:
    return UserError(f"--labels: line {labels.line} of {source.main.url!r} ({labels.key!r}): expected {expected}")


def _require_agreement(catalog: duckdb.DuckDBPyConnection) -> None:
    """Raise UserError if two rows refer to the same file and contradict each other."""
    contradictory = query_rows(
        catalog,
        """
        SELECT path, count(DISTINCT (label, patient_id, split, patient_sex, patient_age, view_position)) AS statements,
            min(line) AS first, max(line) AS last
        FROM matches JOIN given USING (row) GROUP BY path HAVING statements > 1 ORDER BY first LIMIT 1""",
    )
    if contradictory:
        row = contradictory[0]
        raise UserError(
            f"--labels: expected one row per path, got {row['statements']} different ones for {row['path']!r}, in the "
            f"lines {row['first']} to {row['last']}; keep one of them"
        )


def log_lines(summary: LabelsSummary, url: str) -> Iterator[str]:
    """Lines for the log that describe the labels file."""
    matches = summary.matches
    counts = "; ".join(f"{number:,} {what}" for what, number in summary.counts.items())
    yield f"labels: {summary.title} layout in {url}: {counts}"
    if matches.rows_without_file:
        names = ", ".join(matches.first_rows_without_file)
        yield f"labels: {matches.rows_without_file:,} of {matches.rows:,} rows have no file, such as {names}"
    if matches.files_without_row:
        names = ", ".join(matches.first_files_without_row)
        yield f"labels: {matches.files_without_row:,} files have no row, such as {names}"
