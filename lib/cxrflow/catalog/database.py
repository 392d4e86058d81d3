"""The catalog's database: opened in a task, kept beside what is staged until the next task."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from cxrflow.base import storage

NAME = "catalog.duckdb"

TABLES = """
CREATE TABLE IF NOT EXISTS files (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, hidden BOOLEAN, label VARCHAR,
    patient_id VARCHAR, given_split VARCHAR);
CREATE TABLE IF NOT EXISTS samples (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, sha256 VARCHAR, label VARCHAR,
    patient_id VARCHAR, split VARCHAR, source_height INTEGER, source_width INTEGER, source_format VARCHAR,
    source_bits INTEGER, note VARCHAR, phash VARCHAR, sample_id BIGINT, shard VARCHAR, "row" INTEGER, fresh BOOLEAN,
    fixed BOOLEAN);
CREATE TABLE IF NOT EXISTS quarantine (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, sha256 VARCHAR, reason VARCHAR,
    detail VARCHAR);
CREATE TABLE IF NOT EXISTS work (path VARCHAR, size BIGINT, modified TIMESTAMPTZ, label VARCHAR, patient_id VARCHAR,
    split VARCHAR, fixed BOOLEAN, task INTEGER);
CREATE TABLE IF NOT EXISTS replaced (path VARCHAR, shard VARCHAR, "row" INTEGER);
"""
"""files: the listing, with labels. samples: the table's rows, then (fresh) those decoded now. work: files to decode.
replaced: rows of the table's shards that are done anew."""


@contextmanager
def new_catalog(staging: str, memory: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty catalog, which is put into ``staging`` where the block ends well, so that a task may be tried again.

    ``memory`` (bytes) is what the database holds before it turns to the disk.
    """
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        with _connect(folder, memory) as connection:
            connection.execute(TABLES)
            yield connection
        storage.upload(str(Path(folder) / NAME), storage.join(staging, NAME))


@contextmanager
def open_catalog(staging: str, memory: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A copy of the catalog that lies in ``staging``. What the block does to it is not kept."""
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        storage.download(storage.join(staging, NAME), str(Path(folder) / NAME))
        with _connect(folder, memory) as connection:
            connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # the file is thrown away
            yield connection


def _connect(folder: str, memory: int) -> duckdb.DuckDBPyConnection:
    settings = {"threads": 1, "memory_limit": f"{memory // 2**20}MB", "temp_directory": folder}
    connection = duckdb.connect(str(Path(folder) / NAME), config=settings)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    """Append the rows, whose columns are found by name."""
    connection.register("arriving", rows)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM arriving")
    connection.unregister("arriving")


def values(connection: duckdb.DuckDBPyConnection, query: str, parameters: list | None = None) -> list[dict]:
    """The query's rows."""
    done = connection.execute(query, parameters or [])
    names = [column[0] for column in done.description]
    return [dict(zip(names, row, strict=True)) for row in done.fetchall()]
