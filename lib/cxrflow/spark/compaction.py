"""Compaction: merge short and changed shards into full ones, so that a table has shards of equal length."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from cxrflow.base.manifest import Shard
from cxrflow.base.shard_files import checksum, count_labels, read_shard, write_shard


@dataclass(frozen=True)
class Piece:
    """Some rows of a shard."""

    url: str
    start: int
    stop: int


Change = tuple[str, int, str | None]
"""(the shard's URL, row, new split of the row or None to drop it)."""


def compact_shards(
    spark: SparkSession, staging: str, shards: dict[str, Shard], changes: list[Change], rows: int, task: str = "single"
) -> list[Shard]:
    """Apply the changes and merge shards, so that all have ``rows`` rows, except for the last one of each split.

    ``shards`` are all shards of the table by URL; ``task`` is the manifest's. Full and unchanged shards stay as they
    are; executors read the others and write new ones below ``staging``. Returns the shards that stay, with their path
    unchanged, and the new ones, with their path relative to ``staging``.
    """
    changed: dict[str, dict[int, str | None]] = defaultdict(dict)
    for url, row, split in changes:
        changed[url][row] = split
    to_merge = {url: shard for url, shard in shards.items() if changed[url] or shard.rows != rows}
    pieces: dict[str, list[Piece]] = defaultdict(list)
    # Sort by content, because names are random: the same files and tasks must give the same table.
    for url, shard in sorted(to_merge.items(), key=lambda pair: pair[1].checksum):
        for split, piece in split_shard(url, shard, changed[url]):
            pieces[split].append(piece)
    unchanged = {url: shard for url, shard in shards.items() if url not in to_merge}
    groups = []
    for split, found in sorted(pieces.items()):
        first = found[0]
        only = shards[first.url] if len(found) == 1 else None
        if only and (first.stop - first.start, split) == (only.rows, only.split):  # no other piece to merge it with
            unchanged[first.url] = only
        else:
            groups += [(split, group) for group in group_pieces(found, rows)]
    if not groups:
        return list(unchanged.values())
    merged = spark.sparkContext.parallelize(groups, min(len(groups), 4 * spark.sparkContext.defaultParallelism))
    return [*unchanged.values(), *merged.map(lambda group: _merge(staging, task, *group)).collect()]


def split_shard(url: str, shard: Shard, changed: dict[int, str | None]) -> list[tuple[str, Piece]]:
    """The shard's runs of consecutive rows with the same new split; dropped rows are left out."""
    runs: list[tuple[str | None, int]] = []  # (split, first row of the run)
    for row in range(shard.rows):
        split = changed.get(row, shard.split)
        if not runs or runs[-1][0] != split:
            runs.append((split, row))
    stops = [start for _, start in runs[1:]] + [shard.rows]
    return [
        (split, Piece(url, start, stop)) for (split, start), stop in zip(runs, stops, strict=True) if split is not None
    ]


def group_pieces(pieces: list[Piece], rows: int) -> list[list[Piece]]:
    """Groups of pieces, in order, with ``rows`` rows each, except for the last. Pieces are divided where needed."""
    groups: list[list[Piece]] = []
    free = 0
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            if free == 0:
                groups.append([])
                free = rows
            stop = min(piece.stop, start + free)
            groups[-1].append(Piece(piece.url, start, stop))
            free -= stop - start
            start = stop
    return groups


def _merge(staging: str, task: str, split: str, group: list[Piece]) -> Shard:
    # take() copies the rows, so only one whole shard is in memory besides the new one.
    tables = [read_shard(piece.url).take(np.arange(piece.start, piece.stop)) for piece in group]
    table = pa.concat_tables(tables)
    counts = {pair["values"]: pair["counts"] for pair in table["label"].combine_chunks().value_counts().to_pylist()}
    return Shard(
        path=write_shard(staging, split, table),
        split=split,
        rows=table.num_rows,
        checksum=checksum(table["sample_id"].to_numpy()),
        **count_labels(counts, task),
    )
