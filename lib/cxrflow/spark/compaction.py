"""Shards of equal length: what tasks left short, what has to move and what has to go, put together anew."""

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
"""(the shard's place, row, the split that the row goes to, or None where it goes nowhere)."""


def compact_shards(
    spark: SparkSession, staging: str, shards: dict[str, Shard], changes: list[Change], rows: int, task: str = "single"
) -> list[Shard]:
    """Shards of ``rows`` rows, but for the last of each split, that hold every row where it belongs.

    ``shards`` are all of them, by their place; ``task`` is the manifest's. Those that are full and unchanged stay as they are; the rest is read
    and written again below ``staging`` by the executors. Returns the shards that stay, with their path as it was,
    and the new ones, with their path below ``staging``.
    """
    changed: dict[str, dict[int, str | None]] = defaultdict(dict)
    for url, row, split in changes:
        changed[url][row] = split
    loose = {url: shard for url, shard in shards.items() if changed[url] or shard.rows != rows}
    pieces: dict[str, list[Piece]] = defaultdict(list)
    # In order of content, not of names, which are new each time: the same files and tasks give the same table.
    for url, shard in sorted(loose.items(), key=lambda pair: pair[1].checksum):
        for split, piece in cut_up(url, shard, changed[url]):
            pieces[split].append(piece)
    stay = {url: shard for url, shard in shards.items() if url not in loose}
    recipes = []
    for split, found in sorted(pieces.items()):
        whole = shards[found[0].url] if len(found) == 1 else None
        if whole and (found[0].stop - found[0].start, split) == (
            whole.rows,
            whole.split,
        ):  # nothing to put it together with
            stay[found[0].url] = whole
        else:
            recipes += [(split, recipe) for recipe in cut_evenly(found, rows)]
    if not recipes:
        return list(stay.values())
    merged = spark.sparkContext.parallelize(recipes, min(len(recipes), 4 * spark.sparkContext.defaultParallelism))
    return [*stay.values(), *merged.map(lambda recipe: _merge(staging, task, *recipe)).collect()]


def cut_up(url: str, shard: Shard, changed: dict[int, str | None]) -> list[tuple[str, Piece]]:
    """The shard as runs of rows that go to the same split; rows that go nowhere are left out."""
    runs: list[tuple[str | None, int]] = []  # the split, and where the run begins
    for row in range(shard.rows):
        split = changed.get(row, shard.split)
        if not runs or runs[-1][0] != split:
            runs.append((split, row))
    stops = [start for _, start in runs[1:]] + [shard.rows]
    return [
        (split, Piece(url, start, stop)) for (split, start), stop in zip(runs, stops, strict=True) if split is not None
    ]


def cut_evenly(pieces: list[Piece], rows: int) -> list[list[Piece]]:
    """Pieces laid end to end, cut into recipes of ``rows`` rows each but for the last."""
    recipes: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            if room == 0:
                recipes.append([])
                room = rows
            stop = min(piece.stop, start + room)
            recipes[-1].append(Piece(piece.url, start, stop))
            room -= stop - start
            start = stop
    return recipes


def _merge(staging: str, task: str, split: str, recipe: list[Piece]) -> Shard:
    # take() copies the rows, so that no more than one whole shard is in memory besides the new one.
    parts = [read_shard(piece.url).take(np.arange(piece.start, piece.stop)) for piece in recipe]
    table = pa.concat_tables(parts)
    counts = {pair["values"]: pair["counts"] for pair in table["label"].combine_chunks().value_counts().to_pylist()}
    return Shard(
        path=write_shard(staging, split, table),
        split=split,
        rows=table.num_rows,
        checksum=checksum(table["sample_id"].to_numpy()),
        **count_labels(counts, task),
    )
