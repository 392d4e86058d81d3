"""Write and read shards, the Parquet files of samples with exactly one row group. NumPy and pyarrow only."""

from __future__ import annotations

import io
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.findings import tally
from cxrflow.base.generations import read_from_any_generation
from cxrflow.base.image_columns import IMAGE_COLUMNS
from cxrflow.base.schema import HEADER, SAMPLES


def write_shard(folder: str, split: str, table: pa.Table) -> str:
    """Write ``table`` (schema SAMPLES) as one row group and return the file's path relative to ``folder``.

    Each call makes a new name, so a task that Spark runs twice does not overwrite its own files. The caller decides by
    name which of the files belong to the table.
    """
    name = f"split={split}/{uuid.uuid4().hex}.parquet"
    with storage.open_file(storage.join(folder, name), "wb") as file:
        others = [name for name in table.column_names if name != "pixels"]
        # Pixels hardly compress: zstd makes the file an eighth smaller but takes longer than decoding a small JPEG.
        # They do not repeat either, so a dictionary or statistics of them would only take time.
        pq.write_table(
            table,
            file,
            row_group_size=max(1, table.num_rows),
            compression={"pixels": "NONE", **dict.fromkeys(others, "ZSTD")},
            write_statistics=others,
            use_dictionary=["label", "patient_id", "source_format", "source_bits", "note", *IMAGE_COLUMNS],
        )
    return name


def read_shard(url: str, columns: list[str] | None = None) -> pa.Table:
    """The shard's rows, with all columns or the given ones.

    The columns HEADER of a shard that an older version of cxrflow wrote are null.
    """

    def read(url: str) -> pa.Table:
        # Reading a whole remote file in one request takes no longer than three requests for parts of it.
        with storage.open_file(url) if storage.is_local(url) else io.BytesIO(storage.read_bytes(url)) as file:
            shard = pq.ParquetFile(file)
            found = set(shard.schema_arrow.names)
            names = columns or [name for name in SAMPLES.names if name in found or name in IMAGE_COLUMNS]
            table = shard.read(
                [name for name in names if name in found or name not in IMAGE_COLUMNS], use_threads=False
            )
        for field in HEADER:
            if field.name in names and field.name not in found:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        return table.select(names)

    return read_from_any_generation(read, url)


def checksum(sample_ids: np.ndarray | int) -> str:
    """The XOR of sample ids (int64, any number), as 16 hexadecimal digits. Also formats the result of Spark's bit_xor.

    The order of the rows does not matter. A missing, additional or different row changes it.
    """
    return format(int(np.bitwise_xor.reduce(np.asarray(sample_ids, np.int64), axis=None)) & (2**64 - 1), "016x")


def count_labels(rows: dict[str, int], task: str) -> dict[str, dict[str, int]]:
    """The fields of ``manifest.Shard`` that count rows by label. ``rows``: number of rows by text of the label."""
    if task == "single":
        return {"labels": dict(rows)}
    present, unknown = tally(rows)
    return {"labels": present, "unknown": unknown}
