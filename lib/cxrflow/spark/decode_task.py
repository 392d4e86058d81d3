"""A decoding task on an executor: it reads files, decodes them and writes shards. No Spark session, no Keras.

The pixels go from the decoder to Parquet inside one Python process and its child. The outcome of each file is written
next to the shards, so only the URL of that Parquet file crosses between Python and the JVM.
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
from cxrflow.base.schema import HEADER, SAMPLES
from cxrflow.base.shard_files import write_shard
from cxrflow.images import DecodedImage, DecodeError, Recipe, decode_image
from cxrflow.images.decoders.dicom import import_packages
from cxrflow.images.image_hash import perceptual_hash
from cxrflow.spark.isolation import Crash, map_isolated

OUTCOME = pa.schema(
    [
        *(pa.field(column.name, column.type) for column in SAMPLES if column.name != "pixels"),
        pa.field("split", pa.string()),
        pa.field("shard", pa.string()),  # the sample's shard, relative to the staging folder; null in quarantine
        pa.field("row", pa.int32()),  # its row in that shard
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""One row for each file of a task."""

TASK_RESULT = pa.schema(
    [
        pa.field("outcomes", pa.string()),  # URL of the task's Parquet file of OUTCOME
        pa.field("memory", pa.int64()),  # peak memory of the task's Python processes, in bytes
    ]
)
"""The one row that a task returns."""

# A row in Spark holds at most two gigabytes. Larger files than this come without their content.
LARGEST_CONTENT = 2**30

# Files per child process. The parent holds their rows as Python objects.
FILES_PER_CHILD = 2000


@dataclass(frozen=True)
class ReadAndDecode:
    """Reads and decodes one file. It runs in a child process, so that a crash of the decoder affects this file only."""

    recipe: Recipe

    def __call__(self, row: dict) -> tuple[str | None, DecodedImage | DecodeError]:
        """(SHA-256 of the file's bytes or None, the image or the reason why there is none).

        ``row`` has ``path`` and, if only Spark can read the file system, the file's bytes as ``content``.
        """
        digest = None
        try:
            data = self._read(row)
            digest = hashlib.sha256(data).hexdigest()
            return digest, decode_image(data, self.recipe)
        except DecodeError as error:
            return digest, error
        except OSError as error:
            return None, DecodeError("unreadable", error.strerror or str(error))
        except MemoryError:
            return digest, DecodeError("too_large", "decoding needs more memory than --worker-memory allows")

    def _read(self, row: dict) -> bytes:
        if "content" not in row:
            return storage.read_bytes(row["path"])
        if not row["content"].is_valid:
            raise DecodeError(
                "too_large", f"{row['size']:,} bytes; through Spark a file may have at most {LARGEST_CONTENT:,}"
            )
        return row["content"].as_buffer().to_pybytes()


def decode_files(
    batches: Iterator[pa.RecordBatch], recipe: Recipe, memory: int
) -> Iterator[tuple[dict, str | None, DecodedImage | DecodeError]]:
    """Decode the files of the batches; yields (row without content, SHA-256, image or error) in order.

    An image's pixels are valid only until the next item is requested. ``memory`` limits decoding, in bytes.
    """
    for batch in batches:
        for start in range(0, batch.num_rows, FILES_PER_CHILD):
            rows = content_rows(batch.slice(start, FILES_PER_CHILD))
            results = map_isolated(ReadAndDecode(recipe), rows, memory, recipe.height * recipe.width)
            for row, result in zip(rows, results, strict=True):
                row.pop("content", None)
                digest, decoded = (None, DecodeError("crashed", result.detail)) if isinstance(result, Crash) else result
                if isinstance(decoded, DecodedImage) and decoded.source_format == "DICOM":
                    import_packages()  # while this child decodes, so that the next one need not
                yield row, digest, decoded


def content_rows(batch: pa.RecordBatch) -> list[dict]:
    """The rows as Python objects; contents stay in Arrow's memory."""
    rows = batch.select([name for name in batch.schema.names if name != "content"]).to_pylist()
    if "content" in batch.schema.names:
        for row, content in zip(rows, batch["content"], strict=True):
            row["content"] = content
    return rows


@dataclass(frozen=True)
class DecodeTask:
    """Decodes the files of one task into shards; called with the Arrow batches that list them."""

    staging: str
    """Folder for the new shards, until they are committed to the table."""
    recipe: Recipe
    shard_rows: int
    memory: int
    """Bytes that a Python worker may take."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Decode the files of the batches (TASK_FILES); yields one row of TASK_RESULT."""
        # The name is random: a retried task writes another file, and the driver gets the name of one of them.
        url = storage.join(self.staging, f"outcomes/{uuid.uuid4().hex}.parquet")
        with storage.open_file(url, "wb") as file, pq.ParquetWriter(file, OUTCOME) as outcomes:
            for table in self._outcomes(batches):
                outcomes.write_table(table)
        kilobytes = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        memory = sum(kilobytes) * 1024
        yield pa.RecordBatch.from_pydict({"outcomes": [url], "memory": [memory]}, schema=TASK_RESULT)

    def _outcomes(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        """Tables of OUTCOME; the shards that they name are already written."""
        pending: dict[str, _Pending] = {}
        # The pixel buffer of a written shard, reused for the next one: allocating it anew doubles the time.
        spare: list[np.ndarray] = []
        rejected: list[dict] = []
        for row, digest, decoded in decode_files(batches, self.recipe, self.memory // 2):
            if row["label"] is None and isinstance(decoded, DecodedImage):
                decoded = DecodeError("unlabelled")
            source = {
                "path": row["path"],
                "size": row["size"],
                "modified": row["modified"],
                "sha256": digest,
                "sample_id": sample_id(row["path"]),
                "label": row["label"],
                "patient_id": row["patient_id"],
                **{field.name: row[field.name] for field in HEADER},
            }
            if isinstance(decoded, DecodeError):
                rejected.append({**source, "split": row["split"], "reason": decoded.reason, "detail": decoded.detail})
                continue
            if row["split"] not in pending:
                if pending:  # each pending split already has a buffer, so a spare one would be too many
                    spare.clear()
                pending[row["split"]] = _Pending(spare.pop() if spare else self._new_buffer())
            samples = pending[row["split"]]
            samples.add(source, decoded)
            if len(samples.rows) == self.shard_rows:
                yield self._write(pending.pop(row["split"]), row["split"], spare)
            elif sum(len(samples.rows) for samples in pending.values()) * decoded.pixels.nbytes > self.memory // 8:
                # Too much memory is pending: write a short shard, which compaction merges later.
                split = max(pending, key=lambda split: len(pending[split].rows))
                yield self._write(pending.pop(split), split, spare)
        for split, samples in pending.items():
            yield self._write(samples, split, spare)
        yield pa.Table.from_pylist(rejected, schema=OUTCOME)

    def _new_buffer(self) -> np.ndarray:
        return np.empty((self.shard_rows, self.recipe.height, self.recipe.width), np.uint8)

    def _write(self, samples: _Pending, split: str, spare: list[np.ndarray]) -> pa.Table:
        """Write the pending samples of a split as a shard; returns their outcomes."""
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
    """Samples of one split that are not yet written to a shard."""

    def __init__(self, pixels: np.ndarray):
        """``pixels`` is a buffer to fill: uint8 (shard_rows, height, width)."""
        self.rows: list[dict] = []
        self.pixels = pixels

    def add(self, source: dict, decoded: DecodedImage) -> None:
        height, width = decoded.pixels.shape
        self.pixels[len(self.rows)] = decoded.pixels
        self.rows.append(
            {
                **source,
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
        """The samples, with schema SAMPLES; the pixel column shares the buffer's memory."""
        pixels = self.pixels[: len(self.rows)]
        columns = {name: [row[name] for row in self.rows] for name in self.rows[0]}
        columns["phash"] = perceptual_hash(pixels)
        columns["pixels"] = _binary(pixels)
        return pa.Table.from_pydict(columns, schema=SAMPLES)


def _binary(pixels: np.ndarray) -> pa.Array:
    """The images as one binary column, without a copy."""
    count = len(pixels)
    offsets = np.arange(count + 1, dtype=np.int32) * (pixels.nbytes // count)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(pixels)])
