"""How a feed talks with feed.py, and what all feeds share. Every environment imports this: the standard library, NumPy and
pyarrow only. B is 32, the rows of a batch."""

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
"""Bytes of a page of memory."""

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""Pixels uint8 (B, 224, 224, 1), 0 is black, and labels, integer (B,), places in LABELS. The last may have fewer rows."""
Epoch = Callable[[int], Batches]
"""Epoch n, from 0 on, of a feed that is open."""


def shards(table: str) -> list[str]:
    """The Parquet files of a table of cxrflow's, in the order of its manifest."""
    found = json.loads(Path(table, "manifest.json").read_bytes())["shards"]
    return [str(Path(table, shard["path"])) for shard in found]


def read_shard(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The pixels, uint8 (R, 224, 224, 1), and labels, int32 (R,), of a Parquet file with one row group. The pixels are
    not copied."""
    with pq.ParquetFile(path) as file:
        group = file.read_row_group(0, columns=COLUMNS, use_threads=False)
    return as_pixels(group["pixels"]), pc.index_in(group["label"], pa.array(LABELS)).to_numpy()


def as_pixels(column: pa.ChunkedArray) -> np.ndarray:
    """A binary column of images as uint8 (R, 224, 224, 1), without a copy where it is of one chunk."""
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    start = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset]
    size = len(chunk) * HEIGHT * WIDTH
    return np.frombuffer(chunk.buffers()[2], np.uint8, size, start).reshape(-1, *SHAPE)


def join(images: list[bytes]) -> np.ndarray:
    """Images as uint8 (R, 224, 224, 1)."""
    return np.frombuffer(b"".join(images), np.uint8).reshape(-1, *SHAPE)


def samples(table: str) -> Iterator[tuple[bytes, int]]:
    """Each row's pixels and label, in the order of the table: what contestants convert."""
    for path in shards(table):
        for image, label in zip(*read_shard(path), strict=True):
            yield image.tobytes(), int(label)


def serve(run: Callable[[str, int, int, bool], dict], convert: Callable[[str, str], None] | None = None) -> None:
    """Say "ready", then answer each line on standard input with one line of JSON, until it ends:

    ``convert TABLE OUT`` writes a table of cxrflow's as the contestant wants its data, once, and says where it is;
    ``run DATA EPOCHS SHUFFLE_ROWS CHECK`` feeds so many epochs of it; see ``feeds``.
    """
    answers = take_standard_output()
    answer(answers, {"ready": True})
    for line in sys.stdin:
        word, *arguments = shlex.split(line)
        if word == "run":
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
    """``run`` for ``serve``: open a feed over (data, shuffle rows) and take epochs from it. Opening counts to the first
    epoch."""

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
    """Take the batches and say how many rows each had, how many of label 1, and, where they are to be checked, a sum that
    every sample's pixels and label enter once for each time it was fed.

    A byte of each page is read, so that memory that was only promised has to come.
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
