"""The folder of predictions: one Parquet file, which is replaced at once, so every reader sees one whole run.

``FOLDER/predictions.parquet`` holds all rows. Its metadata is the manifest (key ``cxrflow``, JSON). Everything else
that predict writes has a name that begins with ``_``, which Spark ignores. So ``spark.read.parquet(FOLDER)`` reads
exactly the rows of the last finished run, also while another run is replacing them and after that run was killed.
"""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage

NAME = "predictions.parquet"
METADATA = b"cxrflow"


def predictions_file(folder: str) -> str:
    """The URL of the file with the rows."""
    return storage.join(folder, NAME)


def has_predictions(folder: str) -> bool:
    """Whether the folder holds the predictions of a finished run."""
    return storage.exists(predictions_file(folder))


def read_predictions(folder: str) -> pa.Table:
    """All rows, a few hundred bytes each, read in one request, so a run that finishes meanwhile changes nothing."""
    return pq.read_table(io.BytesIO(storage.read_bytes(predictions_file(folder))))


def with_manifest(schema: pa.Schema, manifest: dict) -> pa.Schema:
    """The schema of the file, whose metadata says which run made the predictions."""
    return schema.with_metadata({METADATA: json.dumps(manifest).encode()})
