"""The catalog's DuckDB database: a task opens it, and it is stored in the staging folder until the next task."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.image_columns import IMAGE_COLUMNS

NAME = "catalog.duckdb"
SCANNED_NAME = "scanned.duckdb"
"""The catalog of an ingest that has read headers. A retried task needs the first catalog as it was."""

_KINDS = {"text": "VARCHAR", "number": "FLOAT", "date": "VARCHAR", "flag": "BOOLEAN"}
_IMAGE = ", ".join(f"{name} {_KINDS[kind]}" for name, kind in IMAGE_COLUMNS.items())

UNCHANGED = "old.path = files.path AND old.size = files.size AND old.modified IS NOT DISTINCT FROM files.modified"
"""The condition that a file (``files``) is as it was when a row of the table (``old``) was made."""

TABLES = f"""
CREATE TABLE IF NOT EXISTS files (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, hidden BOOLEAN, label VARCHAR,
    patient_id VARCHAR, given_patient VARCHAR, requested_split VARCHAR);
CREATE TABLE IF NOT EXISTS headers (path VARCHAR, is_dicom BOOLEAN, patient_id VARCHAR, {_IMAGE});
CREATE TABLE IF NOT EXISTS stated (path VARCHAR, patient_sex VARCHAR, patient_age FLOAT, view_position VARCHAR);
CREATE TABLE IF NOT EXISTS described (path VARCHAR, is_dicom BOOLEAN, {_IMAGE});
CREATE TABLE IF NOT EXISTS left_out (path VARCHAR, condition INTEGER, value VARCHAR);
CREATE TABLE IF NOT EXISTS samples (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, sha256 VARCHAR, label VARCHAR,
    patient_id VARCHAR, split VARCHAR, source_height INTEGER, source_width INTEGER, source_format VARCHAR,
    source_bits INTEGER, note VARCHAR, phash VARCHAR, sample_id BIGINT, shard VARCHAR, "row" INTEGER, is_new BOOLEAN,
    split_fixed BOOLEAN, {_IMAGE});
CREATE TABLE IF NOT EXISTS quarantine (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, sha256 VARCHAR, reason VARCHAR,
    detail VARCHAR);
CREATE TABLE IF NOT EXISTS to_decode (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, label VARCHAR,
    patient_id VARCHAR, split VARCHAR, split_fixed BOOLEAN, task INTEGER);
CREATE TABLE IF NOT EXISTS replaced (path VARCHAR, shard VARCHAR, "row" INTEGER);
"""
"""files: the listing, with labels; given_patient is the labels file's. headers: what the headers of new files say.
stated: what the labels file says about how images were taken. described: both together. left_out: files that a
selection leaves out. samples: rows of the existing table and, with is_new, of this ingest. to_decode: the files that
this ingest decodes. replaced: rows of the table's shards whose file is decoded again. split_fixed: the patient's split
comes from the table or from the labels file and must not change."""


@contextmanager
def new_catalog(
    staging: str, memory: int, name: str = NAME, based_on: str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Create an empty catalog, or one that continues the stored catalog ``based_on``.

    It is stored in ``staging`` as ``name`` if the block succeeds, so a retried task starts anew. ``memory`` is the
    number of bytes that the database may hold before it spills to disk.
    """
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        if based_on:
            storage.download(storage.join(staging, based_on), str(Path(folder) / NAME))
        with _connect(folder, memory) as connection:
            connection.execute(TABLES)
            yield connection
        storage.upload(str(Path(folder) / NAME), storage.join(staging, name))


@contextmanager
def open_catalog(staging: str, memory: int, name: str = NAME) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a copy of the catalog ``name`` in ``staging``. Changes are discarded at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        storage.download(storage.join(staging, name), str(Path(folder) / NAME))
        with _connect(folder, memory) as connection:
            connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # the copy is discarded
            yield connection


def _connect(folder: str, memory: int) -> duckdb.DuckDBPyConnection:
    settings = {"threads": 1, "memory_limit": f"{memory // 2**20}MB", "temp_directory": folder}
    connection = duckdb.connect(str(Path(folder) / NAME), config=settings)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    """Append the rows; columns are matched by name."""
    connection.register("new_rows", rows)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM new_rows")
    connection.unregister("new_rows")


def query_rows(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: list | dict | None = None
) -> list[dict[str, Any]]:
    """Run the query and return all its rows."""
    result = connection.execute(query, parameters or [])
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
