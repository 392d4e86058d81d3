"""Writing and reading shards: Parquet files of samples with exactly one row group. pyarrow only."""

from __future__ import annotations

import io
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.findings import tally


def write_shard(folder: str, split: str, table: pa.Table) -> str:
    """Write ``table`` (schema SAMPLES) as one row group below ``folder``; returns its path there.

    The name is new each time, so a task that is tried twice never writes over itself: whoever collects the
    shards decides by name which of them count.
    """
    name = f"split={split}/{uuid.uuid4().hex}.parquet"
    with storage.open_file(storage.join(folder, name), "wb") as file:
        others = [name for name in table.column_names if name != "pixels"]
        # Pixels hardly compress: zstd makes the file an eighth smaller and takes longer than decoding a small JPEG. Nor
        # do they repeat: a dictionary of them, or their smallest and largest value, would only cost.
        pq.write_table(
            table,
            file,
            row_group_size=max(1, table.num_rows),
            compression={"pixels": "NONE", **dict.fromkeys(others, "ZSTD")},
            write_statistics=others,
            use_dictionary=["label", "patient_id", "source_format", "source_bits", "note"],
        )
    return name


def read_shard(url: str, columns: list[str] | None = None) -> pa.Table:
    """The shard's rows, or some of their columns."""
    # Of a remote file, the whole in one request takes no longer than asking three times for its pieces.
    with storage.open_file(url) if storage.is_local(url) else io.BytesIO(storage.read_bytes(url)) as file:
        return pq.read_table(file, columns=columns, use_threads=False)


def checksum(sample_ids: np.ndarray | int) -> str:
    """The exclusive or of sample ids (int64, any number of them, or what Spark's bit_xor made of them), as 16
    hexadecimal digits. The order of the rows does not matter; a row more, less or other changes it."""
    return format(int(np.bitwise_xor.reduce(np.asarray(sample_ids, np.int64), axis=None)) & (2**64 - 1), "016x")


def count_labels(rows: dict[str, int], task: str) -> dict[str, dict[str, int]]:
    """The fields of ``manifest.Shard`` that count its rows by label, from ``rows`` by what is in the column label."""
    if task == "single":
        return {"labels": dict(rows)}
    present, unknown = tally(rows)
    return {"labels": present, "unknown": unknown}
