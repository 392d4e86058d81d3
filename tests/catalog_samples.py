"""Rows of a catalog, a catalog in memory, and a manifest without shards."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime, timezone

import duckdb
import pyarrow as pa

from cxrflow.base.manifest import Manifest
from cxrflow.catalog.database import TABLES, insert

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def sample(path, patient, split, content, *, is_new=True, split_fixed=False, label="A", phash="0" * 64, row=0, note=""):
    return {
        "path": path,
        "size": 1,
        "modified": NOW,
        "sha256": content,
        "label": label,
        "patient_id": patient,
        "split": split,
        "source_height": 10,
        "source_width": 20,
        "source_format": "PNG",
        "source_bits": 8,
        "note": note,
        "phash": phash,
        "sample_id": hash(path) >> 1,
        "shard": f"{split}/{path}" if is_new else "old",
        "row": row,
        "is_new": is_new,
        "split_fixed": split_fixed or not is_new,
    }


@contextmanager
def filled(samples, quarantine=()):
    """A catalog, in memory, with these samples."""
    with duckdb.connect(config={"threads": 1}) as catalog:
        catalog.execute("SET TimeZone = 'UTC'")
        catalog.execute(TABLES)
        files = [{"path": row["path"]} for row in [*samples, *quarantine]]
        for table, rows in (("samples", samples), ("quarantine", quarantine), ("files", files)):
            if rows:
                insert(catalog, table, pa.Table.from_pylist(list(rows)))
        yield catalog


def empty_manifest(label: str, audit: dict) -> Manifest:
    """The manifest of a table of one label and no shards."""
    return Manifest(
        generation=1,
        height=8,
        width=8,
        labels=[label],
        shard_rows=1,
        shards=[],
        quarantined={},
        quarantine=[],
        config={},
        columns={},
        audit=audit,
    )
