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

NAME = "catalog.duckdb"

TABLES = """
CREATE TABLE IF NOT EXISTS files (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, hidden BOOLEAN, label VARCHAR,
    patient_id VARCHAR, requested_split VARCHAR);
CREATE TABLE IF NOT EXISTS samples (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, sha256 VARCHAR, label VARCHAR,
    patient_id VARCHAR, split VARCHAR, source_height INTEGER, source_width INTEGER, source_format VARCHAR,
    source_bits INTEGER, note VARCHAR, phash VARCHAR, sample_id BIGINT, shard VARCHAR, "row" INTEGER, is_new BOOLEAN,
    split_fixed BOOLEAN);
CREATE TABLE IF NOT EXISTS quarantine (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, sha256 VARCHAR, reason VARCHAR,
    detail VARCHAR);
CREATE TABLE IF NOT EXISTS to_decode (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, label VARCHAR,
    patient_id VARCHAR, split VARCHAR, split_fixed BOOLEAN, task INTEGER);
CREATE TABLE IF NOT EXISTS replaced (path VARCHAR, shard VARCHAR, "row" INTEGER);
"""
"""files: the listing, with labels. samples: rows of the existing table and, with is_new, of this ingest. to_decode: the
files that this ingest decodes. replaced: rows of the table's shards whose file is decoded again. split_fixed: the
patient's split comes from the table or from the labels file and must not change."""


@contextmanager
def new_catalog(staging: str, memory: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Create an empty catalog; store it in ``staging`` if the block succeeds, so a retried task starts anew.

    ``memory`` is the number of bytes that the database may hold before it spills to disk.
    """
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        with _connect(folder, memory) as connection:
            connection.execute(TABLES)
            yield connection
        storage.upload(str(Path(folder) / NAME), storage.join(staging, NAME))


@contextmanager
def open_catalog(staging: str, memory: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a copy of the catalog in ``staging``. Changes are discarded at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        storage.download(storage.join(staging, NAME), str(Path(folder) / NAME))
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
    connection: duckdb.DuckDBPyConnection, query: str, parameters: list | None = None
) -> list[dict[str, Any]]:
    """Run the query and return all its rows."""
    result = connection.execute(query, parameters or [])
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
