"""The protocol between feed.py and its contestants, and what all contestants share. B is 32, the rows of a batch.

Every environment imports this, so it uses the standard library, NumPy and pyarrow only.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contestant import answer, take_standard_output

BATCH_ROWS = 32
HEIGHT = WIDTH = 224
SHAPE = (HEIGHT, WIDTH, 1)
COLUMNS = ["label", "pixels"]
LABELS = ["NORMAL", "PNEUMONIA"]
PAGE = 4096
"""Bytes of a memory page."""

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""Pixels uint8 (B, 224, 224, 1), 0 is black, and labels, integer (B,), indices of LABELS. The last may be shorter."""
Epoch = Callable[[int], Batches]
"""Returns the batches of epoch n, counted from 0, of an open feed."""


def shards(table: str) -> list[str]:
    """The Parquet files of a cxrflow table, in the order of its manifest."""
    manifest = json.loads(Path(table, "manifest.json").read_bytes())
    return [str(Path(table, shard["path"])) for shard in manifest["shards"]]


def read_shard(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (R, 224, 224, 1), not copied, and labels int32 (R,) of a Parquet file with one row group."""
    with pq.ParquetFile(path) as file:
        group = file.read_row_group(0, columns=COLUMNS, use_threads=False)
    return as_pixels(group["pixels"]), pc.index_in(group["label"], pa.array(LABELS)).to_numpy()


def as_pixels(column: pa.ChunkedArray) -> np.ndarray:
    """A binary column of images as uint8 (R, 224, 224, 1). A column of one chunk is not copied."""
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    start = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset]
    size = len(chunk) * HEIGHT * WIDTH
    return np.frombuffer(chunk.buffers()[2], np.uint8, size, start).reshape(-1, *SHAPE)


def join(images: list[bytes]) -> np.ndarray:
    """Images as uint8 (R, 224, 224, 1)."""
    return np.frombuffer(b"".join(images), np.uint8).reshape(-1, *SHAPE)


def samples(table: str) -> Iterator[tuple[bytes, int]]:
    """Each row's pixels and label in the order of the table, for contestants that convert it."""
    for path in shards(table):
        for image, label in zip(*read_shard(path), strict=True):
            yield image.tobytes(), int(label)


def serve(run: Callable[[str, int, int, bool], dict], convert: Callable[[str, str], None] | None = None) -> None:
    """Report "ready", then answer each line of standard input with one line of JSON, until it ends.

    ``convert TABLE OUT`` converts a cxrflow table to the contestant's format and answers where the result is.
    ``run DATA EPOCHS SHUFFLE_ROWS CHECK`` feeds that many epochs of it; see ``feeds``.
    """
    answers = take_standard_output()
    answer(answers, {"ready": True})
    for line in sys.stdin:
        command, *arguments = shlex.split(line)
        if command == "run":
            data, epochs, shuffle_rows, check = arguments
            answer(answers, run(data, int(epochs), int(shuffle_rows), bool(int(check))))
        else:
            answer(answers, {"data": _convert(convert, *arguments)})


def _convert(convert: Callable[[str, str], None] | None, table: str, out: str) -> str:
    if convert is None:
        return table
    Path(out).mkdir(parents=True)
    convert(table, out)
    return out


def feeds(open_feed: Callable[[str, int], Epoch]) -> Callable[[str, int, int, bool], dict]:
    """``run`` for ``serve``: open a feed with ``open_feed(data, shuffle_rows)`` and take epochs from it.

    The time of the first epoch includes opening the feed.
    """

    def run(data: str, epochs: int, shuffle_rows: int, check: bool) -> dict:
        results = []
        started = time.perf_counter()
        epoch = open_feed(data, shuffle_rows)
        for number in range(epochs):
            result = consume(epoch(number), check)
            now = time.perf_counter()
            results.append({"seconds": now - started, **result})
            started = now
        return {"epochs": results}

    return run


def consume(batches: Batches, check: bool) -> dict:
    """Take the batches and return the rows and the rows with label 1 of each.

    With ``check``, also returns a digest: the sum of the checksums of all samples fed. Reads a byte of each memory
    page, so that lazily mapped memory is really loaded.
    """
    sizes, ones, digest = [], [], 0
    for pixels, labels in batches:
        if pixels.shape != (len(labels), *SHAPE) or pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 {(len(labels), *SHAPE)}, got {pixels.dtype} {pixels.shape}")
        pixels.reshape(-1)[::PAGE].sum()
        sizes.append(len(labels))
        ones.append(int(labels.sum()))
        if check:
            digest += digest_of(pixels, labels)
    return {"sizes": sizes, "ones": ones, "digest": digest if check else None}


def digest_of(pixels: np.ndarray, labels: np.ndarray) -> int:
    return sum(zlib.crc32(image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True))
