"""Tables for the feed benchmarks: the real images, the same sorted by class, and one of many shards."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrflow.base.manifest import Manifest, Shard, read_manifest, write_manifest
from cxrflow.base.schema import SAMPLES
from cxrflow.base.shard_files import checksum, read_shard, write_shard
from program import ROOT


def ingest(images: Path, table: Path, size: int) -> None:
    """Ingest the images as squares of ``size``, all in the train split, unless the table exists already."""
    if (table / "manifest.json").exists():
        return
    subprocess.run(
        [
            "bash",
            "-c",
            'source cluster/env.sh && exec spark-submit "$@"',
            "spark-submit",
            "--master",
            "local[2]",
            "--driver-memory",
            "1g",
            "jobs/ingest.py",
            "--images",
            str(images),
            "--table",
            str(table),
            "--height",
            str(size),
            "--width",
            str(size),
            "--split",
            "train",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def sort_by_class(table: Path, out: Path) -> None:
    """Write the same rows in as many shards, sorted by label. At most one shard has both labels."""
    manifest = read_manifest(str(table))
    rows = pa.concat_tables([read_shard(str(table / shard.path)) for shard in manifest.shards])
    rows = rows.take(pc.sort_indices(rows["label"]))
    shards, start = [], 0
    for number, shard in enumerate(manifest.shards):
        shards.append(add_shard(out, f"{number:06d}", rows.slice(start, shard.rows)))
        start += shard.rows
    write_manifest(str(out), dataclasses.replace(manifest, shards=shards))


def add_shard(table: Path, name: str, rows: pa.Table) -> Shard:
    """Write rows of the train split as a shard. Its file name begins with ``name``: some readers sort files by name."""
    written = Path(write_shard(str(table / "samples"), "train", rows))
    path = Path("samples", written.parent, f"{name}-{written.name}")
    (table / "samples" / written).rename(table / path)
    return describe(str(path), rows)


def describe(path: str, rows: pa.Table) -> Shard:
    counts = pc.value_counts(rows["label"]).to_pylist()
    return Shard(
        path=path,
        split="train",
        rows=rows.num_rows,
        labels={count["values"]: count["counts"] for count in counts},
        checksum=checksum(rows["sample_id"].to_numpy()),
    )


def make_many_shards(table: Path, count: int, distinct: int, rows: int, size: int) -> None:
    """A table of ``count`` shards with ``rows`` random images each.

    To save disk space, only ``distinct`` shards are written. The others are hard links to them.
    """
    first = [add_shard(table, "000000", random_rows(number, rows, size)) for number in range(distinct)]
    shards = list(first)
    for number in range(distinct, count):
        source = first[number % distinct]
        path = str(Path(source.path).with_name(f"{number:06d}-{uuid.uuid4().hex}.parquet"))
        os.link(table / source.path, table / path)
        shards.append(dataclasses.replace(source, path=path))
    write_manifest(
        str(table),
        Manifest(
            generation=1,
            height=size,
            width=size,
            labels=["NORMAL", "PNEUMONIA"],
            shard_rows=rows,
            shards=shards,
            quarantined={},
            quarantine=[],
            config={},
            columns={field.name: str(field.type) for field in SAMPLES},
        ),
    )


def random_rows(seed: int, rows: int, size: int) -> pa.Table:
    """Samples with random pixels, labels and ids. The other columns are the same in every row."""
    random = np.random.default_rng(seed)
    filler = {pa.string(): "text", pa.int64(): 0, pa.int32(): 0}
    columns = {field.name: [filler.get(field.type)] * rows for field in SAMPLES}
    columns |= {
        "sample_id": random.integers(2**62, size=rows),
        "label": random.choice(["NORMAL", "PNEUMONIA"], rows).tolist(),
        "pixels": [random.bytes(size * size) for _ in range(rows)],
    }
    return pa.Table.from_pydict(columns, schema=SAMPLES)
