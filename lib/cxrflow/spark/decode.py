"""What a decoding task does on an executor: bytes to pixels, straight into shards. No Spark session, no Keras.

The pixels go from the decoder to Parquet inside one Python process. Only a line about each file goes back to
Spark, so no pixel crosses between Python and the JVM.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from cxrflow import storage
from cxrflow.images import DECODERS, Decoded, Unreadable
from cxrflow.labels import sample_id
from cxrflow.schema import SOURCE
from cxrflow.shards import ShardWriter

OUTCOME = pa.schema([
    *SOURCE,
    pa.field("sample_id", pa.int64()),
    pa.field("label", pa.string()),
    pa.field("split", pa.string()),
    pa.field("shard", pa.string()),  # where the sample was written, below the staging folder; null in quarantine
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
])
"""One row for each file that a task saw."""


def read_and_decode(row: dict, height: int, width: int, decoder: str = "pillow") -> tuple[str | None, Decoded | Unreadable]:
    """(SHA-256 of the file's bytes or None, the image or why there is none).

    ``row`` holds ``path`` and, where only Spark can read the file system, the file's bytes as ``content``.
    """
    try:
        data = row["content"] if row.get("content") is not None else storage.read_bytes(row["path"])
    except OSError as error:
        return None, Unreadable("unreadable", f"{type(error).__name__}: {error}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        return digest, DECODERS[decoder](data, height, width)
    except Unreadable as error:
        return digest, error


@dataclass(frozen=True)
class DecodeTask:
    """Decodes the files of one Spark partition; called with the partition's Arrow batches."""

    staging: str
    """Folder for the shards of this ingest, not yet part of the table."""
    height: int
    width: int
    shard_rows: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writers: dict[str, ShardWriter] = {}
        pending: dict[str, list[dict]] = {}  # outcomes whose shard has no name yet, by split
        for batch in batches:
            done = []
            for row in rows_of(batch):
                outcome, sample = self._one(row)
                split = outcome["split"]
                if sample is None:
                    done.append(outcome)
                    continue
                writer = writers.setdefault(split, ShardWriter(self.staging, split, self.shard_rows))
                pending.setdefault(split, []).append(outcome)
                done += _named(pending, split, writer.add(sample))
            yield _to_batch(done)
        yield _to_batch([outcome for split, writer in writers.items()
                         for outcome in _named(pending, split, writer.flush())])

    def _one(self, row: dict) -> tuple[dict, dict | None]:
        """The outcome of one file, and its sample if it gave one."""
        digest, decoded = read_and_decode(row, self.height, self.width)
        if row["label"] is None and isinstance(decoded, Decoded):
            decoded = Unreadable("unlabelled")
        source = {"path": row["path"], "size": row["size"], "modified": row["modified"], "sha256": digest}
        source["sample_id"] = sample_id(row["path"])
        outcome = {**source, "label": row["label"], "split": row["split"], "shard": None, "reason": None, "detail": None}
        if isinstance(decoded, Unreadable):
            return {**outcome, "reason": decoded.reason, "detail": decoded.detail}, None
        return outcome, {
            **source, "label": row["label"], "patient_id": row["patient_id"],
            "height": self.height, "width": self.width,
            "source_height": decoded.source_height, "source_width": decoded.source_width,
            "source_format": decoded.source_format, "pixels": decoded.pixels.tobytes(),
        }


def rows_of(batch: pa.RecordBatch) -> Iterator[dict]:
    """The batch's rows one at a time, so that the bytes of only one file are a Python object."""
    for index in range(batch.num_rows):
        yield batch.slice(index, 1).to_pylist()[0]


def _named(pending: dict[str, list[dict]], split: str, shard: str | None) -> list[dict]:
    """The outcomes that wait for the shard that was just written, with its name."""
    return [{**outcome, "shard": shard} for outcome in pending.pop(split)] if shard else []


def _to_batch(outcomes: list[dict]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(outcomes, schema=OUTCOME)
