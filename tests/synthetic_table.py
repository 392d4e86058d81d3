"""A small table of random images, written without Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.config import IngestConfig, to_dict
from cxrflow.base.manifest import Manifest, Shard, write_manifest
from cxrflow.base.shard_files import checksum, write_shard

SHARD_ROWS = {"train": [6, 6, 6, 6, 5], "val": [6, 4], "test": [6, 3]}


def make_table(
    table: str | Path,
    shard_rows: Mapping[str, Sequence[int]] = SHARD_ROWS,
    *,
    height: int = 48,
    width: int = 40,
    labels: Sequence[str] = ("NORMAL", "PNEUMONIA"),
) -> Manifest:
    """Write shards with these rows for each split, and the manifest. No image is black."""
    random, shards = np.random.default_rng(0), []
    for split, sizes in shard_rows.items():
        for rows in sizes:
            ids = random.integers(-(2**63), 2**63 - 1, rows)
            images = random.integers(1, 256, (rows, height * width), np.uint8)
            texts = random.choice(labels, rows).tolist()
            columns = {
                "sample_id": ids,
                "label": texts,
                "pixels": [image.tobytes() for image in images],
                "patient_id": ["p"] * rows,
            }
            path = write_shard(storage.join(str(table), "samples"), split, pa.table(columns))
            counts = {label: texts.count(label) for label in labels}
            shards.append(Shard(path=f"samples/{path}", split=split, rows=rows, labels=counts, checksum=checksum(ids)))
    manifest = Manifest(
        generation=1,
        height=height,
        width=width,
        labels=list(labels),
        shard_rows=max(map(max, shard_rows.values())),
        shards=shards,
        quarantined={},
        quarantine=[],
        config=to_dict(IngestConfig(images="random", table=str(table), height=height, width=width)),
        columns={},
        audit={"patients": dict.fromkeys(shard_rows, 1)},
    )
    write_manifest(str(table), manifest)
    return manifest
