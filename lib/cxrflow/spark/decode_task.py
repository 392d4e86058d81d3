"""What a decoding task does on an executor: bytes to pixels, straight into shards. No Spark session, no Keras.

The pixels go from the decoder to Parquet inside one Python process and its decoding child. What came of each file is
written beside the shards, so nothing but the name of that list crosses between Python and the JVM.
"""

from __future__ import annotations

import hashlib
import resource
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.path_rules import sample_id
from cxrflow.base.schema import SAMPLES
from cxrflow.base.shard_files import write_shard
from cxrflow.images import DecodedImage, DecodeError, Recipe, decode_image
from cxrflow.images.image_hash import perceptual_hash
from cxrflow.spark.isolation import Crash, map_isolated

OUTCOME = pa.schema(
    [
        *(pa.field(column.name, column.type) for column in SAMPLES if column.name != "pixels"),
        pa.field("split", pa.string()),
        pa.field("shard", pa.string()),  # where the sample was written, below the staging folder; null in quarantine
        pa.field("row", pa.int32()),  # its place in that shard
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""One row for each file that a task saw."""

DONE = pa.schema(
    [
        pa.field("outcomes", pa.string()),  # the place of the task's Parquet file of OUTCOME
        pa.field("memory", pa.int64()),  # bytes, the most that the task's Python processes have held
    ]
)
"""What a task says at its end."""

# A row of Spark's holds two gigabytes at most. Files above this come without their content.
LARGEST_CONTENT = 2**30

# Files that one child process decodes, and that its parent holds the listing of as Python objects.
FILES_A_CHILD = 2000


@dataclass(frozen=True)
class ReadAndDecode:
    """The part of the work that runs apart, where a decoder that crashes takes only its file."""

    recipe: Recipe

    def __call__(self, row: dict) -> tuple[str | None, DecodedImage | DecodeError]:
        """(SHA-256 of the file's bytes or None, the image or why there is none).

        ``row`` holds ``path`` and, where only Spark can read the file system, the file's bytes as ``content``.
        """
        digest = None
        try:
            data = self._read(row)
            digest = hashlib.sha256(data).hexdigest()
            return digest, decode_image(data, self.recipe)
        except DecodeError as error:
            return digest, error
        except OSError as error:
            return None, DecodeError("unreadable", f"{type(error).__name__}: {error}")
        except MemoryError:
            return digest, DecodeError("too_large", "reading it takes more memory than --worker-memory allows")

    def _read(self, row: dict) -> bytes:
        if "content" not in row:
            return storage.read_bytes(row["path"])
        if not row["content"].is_valid:
            raise DecodeError(
                "too_large", f"{row['size']:,} bytes; Spark hands on files of at most {LARGEST_CONTENT:,}"
            )
        return row["content"].as_buffer().to_pybytes()


def decode_files(
    batches: Iterator[pa.RecordBatch], recipe: Recipe, memory: int
) -> Iterator[tuple[dict, str | None, DecodedImage | DecodeError]]:
    """(the file's row without its content, SHA-256, the image or why there is none) for each row of the batches.

    An image's pixels are valid until the next one is asked for. ``memory`` (bytes) is what decoding may take at a time.
    """
    for batch in batches:
        for start in range(0, batch.num_rows, FILES_A_CHILD):
            rows = _rows(batch.slice(start, FILES_A_CHILD))
            results = map_isolated(ReadAndDecode(recipe), rows, memory, recipe.height * recipe.width)
            for row, result in zip(rows, results, strict=True):
                row.pop("content", None)
                digest, decoded = (None, DecodeError("crashed", result.detail)) if isinstance(result, Crash) else result
                yield row, digest, decoded


def _rows(batch: pa.RecordBatch) -> list[dict]:
    """The rows as Python objects, but for the bytes of files, which stay where Arrow has them."""
    rows = batch.select([name for name in batch.schema.names if name != "content"]).to_pylist()
    if "content" in batch.schema.names:
        for row, content in zip(rows, batch["content"], strict=True):
            row["content"] = content
    return rows


@dataclass(frozen=True)
class DecodeTask:
    """Decodes the files of one task; called with the Arrow batches that list them."""

    staging: str
    """Folder for the shards of this ingest, not yet part of the table."""
    recipe: Recipe
    shard_rows: int
    memory: int
    """Bytes that a Python worker may take."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # A name of its own: a task that is tried twice leaves two files, of which the driver hears of one.
        place = storage.join(self.staging, f"outcomes/{uuid.uuid4().hex}.parquet")
        with storage.open_file(place, "wb") as file, pq.ParquetWriter(file, OUTCOME) as outcomes:
            for table in self._outcomes(batches):
                outcomes.write_table(table)
        memory = (
            sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
        )
        yield pa.RecordBatch.from_pydict({"outcomes": [place], "memory": [memory]}, schema=DONE)

    def _outcomes(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        """The outcomes of all files, some at a time; their shards are written by then."""
        pending: dict[str, _Pending] = {}
        spare: list[
            np.ndarray
        ] = []  # memory of shards that are written, for those to come: new memory costs as much again
        refused: list[dict] = []
        for row, digest, decoded in decode_files(batches, self.recipe, self.memory // 2):
            if row["label"] is None and isinstance(decoded, DecodedImage):
                decoded = DecodeError("unlabelled")
            known = {
                "path": row["path"],
                "size": row["size"],
                "modified": row["modified"],
                "sha256": digest,
                "sample_id": sample_id(row["path"]),
                "label": row["label"],
                "patient_id": row["patient_id"],
            }
            if isinstance(decoded, DecodeError):
                refused.append({**known, "split": row["split"], "reason": decoded.reason, "detail": decoded.detail})
                continue
            if row["split"] not in pending:
                if pending:  # splits that take turns would keep a buffer each, beside the spare one
                    spare.clear()
                pending[row["split"]] = _Pending(spare.pop() if spare else self._memory_for_pixels())
            samples = pending[row["split"]]
            samples.add(known, decoded)
            if len(samples.rows) == self.shard_rows:
                yield self._write(pending.pop(row["split"]), row["split"], spare)
            elif sum(len(samples.rows) for samples in pending.values()) * decoded.pixels.nbytes > self.memory // 8:
                # Shards of large images: better some short ones, which are put together later, than too much memory.
                split = max(pending, key=lambda split: len(pending[split].rows))
                yield self._write(pending.pop(split), split, spare)
        for split, samples in pending.items():
            yield self._write(samples, split, spare)
        yield pa.Table.from_pylist(refused, schema=OUTCOME)

    def _memory_for_pixels(self) -> np.ndarray:
        return np.empty((self.shard_rows, self.recipe.height, self.recipe.width), np.uint8)

    def _write(self, samples: _Pending, split: str, spare: list[np.ndarray]) -> pa.Table:
        """Write what is pending of a split as a shard; its outcomes."""
        table = samples.to_table()
        shard = write_shard(self.staging, split, table)
        spare[:] = [samples.pixels]
        rows = table.num_rows
        outcomes = table.drop_columns(["pixels"])
        for name, column in (
            ("split", pa.repeat(split, rows)),
            ("shard", pa.repeat(shard, rows)),
            ("row", pa.array(range(rows), pa.int32())),
            ("reason", pa.nulls(rows, pa.string())),
            ("detail", pa.nulls(rows, pa.string())),
        ):
            outcomes = outcomes.append_column(name, column)
        return outcomes.cast(OUTCOME)


class _Pending:
    """Samples of one split that wait for their shard."""

    def __init__(self, pixels: np.ndarray):
        """``pixels``: uint8 (most samples, height, width), what is in it does not matter."""
        self.rows: list[dict] = []
        self.pixels = pixels

    def add(self, known: dict, decoded: DecodedImage) -> None:
        height, width = decoded.pixels.shape
        self.pixels[len(self.rows)] = decoded.pixels
        self.rows.append(
            {
                **known,
                "height": height,
                "width": width,
                "source_height": decoded.source_height,
                "source_width": decoded.source_width,
                "source_format": decoded.source_format,
                "source_bits": decoded.source_bits,
                "note": decoded.note,
            }
        )

    def to_table(self) -> pa.Table:
        pixels = self.pixels[: len(self.rows)]
        columns = {name: [row[name] for row in self.rows] for name in self.rows[0]}
        columns["phash"] = perceptual_hash(pixels)
        columns["pixels"] = _binary(pixels)
        return pa.Table.from_pydict(columns, schema=SAMPLES)


def _binary(pixels: np.ndarray) -> pa.Array:
    """The images as one binary column, on the memory that they are in."""
    count = len(pixels)
    offsets = np.arange(count + 1, dtype=np.int32) * (pixels.nbytes // count)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(pixels)])
