"""How training gets a shard's content: by path from a local table, as bytes from a remote one, or from the cache."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.config import TrainConfig, parse_bytes
from cxrflow.base.generations import read_from_any_generation
from cxrflow.base.manifest import Manifest
from cxrflow.training.shard_cache import ShardCache

Fetch = Callable[[str], pa.Buffer]
"""Returns a shard's whole content, given its URL. Raises OSError if it cannot be read."""


def fetch_whole(url: str) -> pa.Buffer:
    """Read a remote shard in one request.

    Training needs nearly all of a shard. Opening it as a file would cost one request for its size, one for its footer
    and one or more for its columns.
    """
    return pa.py_buffer(read_from_any_generation(storage.read_bytes, url))


def plain_fetch(table: str) -> Fetch | None:
    """How shards are fetched without a cache; None for a local table, whose shards are opened by path."""
    return None if storage.is_local(table) else fetch_whole


def find_fetch(config: TrainConfig, manifest: Manifest) -> Fetch | None:
    """How a worker fetches shards: through its machine's cache with ``--cache``, otherwise as ``plain_fetch``."""
    if not config.cache:
        return plain_fetch(config.table)
    cache_bytes = parse_bytes("--cache-size", config.cache_size)
    return ShardCache(config.cache, cache_bytes, manifest.table_id, fetch_whole).fetch
