"""Where training gets a shard from: the file itself where it has a name on this machine, otherwise its bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.config import TrainConfig, parse_bytes
from cxrflow.base.manifest import Manifest
from cxrflow.base.schema import SAMPLES
from cxrflow.training.shard_cache import ShardCache

Fetch = Callable[[str], pa.Buffer]
"""A shard's whole content, by its URL. Raises OSError where it cannot be read."""


def fetch_whole(url: str) -> pa.Buffer:
    """Read a remote shard in one request.

    It is one row group, of which training wants nearly all: opened as a file, it would cost a request for its size, one
    for its footer and one or more for its columns.
    """
    return pa.py_buffer(storage.read_bytes(url))


def plain_fetch(table: str) -> Fetch | None:
    """How the table's shards are fetched; None where they are opened by name."""
    return None if storage.is_local(table) else fetch_whole


def find_fetch(config: TrainConfig, manifest: Manifest) -> Fetch | None:
    """How a worker fetches shards, through its machine's cache where there is one; None where it opens them by name."""
    if not config.cache:
        return plain_fetch(config.table)
    return ShardCache(
        config.cache, parse_bytes("--cache-size", config.cache_size), manifest.table_id, fetch_whole
    ).fetch


@contextmanager
def first_file(url: str, columns: list[str], fetch: Fetch | None) -> Iterator[str]:
    """A local file URL with the columns' types, for as long as Petastorm's reader is made.

    The reader opens the first file, through pyarrow's legacy file systems, which reach the local one only. So for a shard
    that is fetched it gets a file of one empty row, and nothing is fetched twice.
    """
    if fetch is None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="cxrflow-") as folder:
        path = Path(folder) / "columns.parquet"
        pq.write_table(pa.table({name: pa.array([None], SAMPLES.field(name).type) for name in columns}), path)
        yield storage.for_petastorm(str(path))
