"""A table's samples as a Delta table: the same Parquet files and a Delta log. Uses delta-rs, not Spark."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.extras import require_modules
from cxrflow.base.manifest import Manifest
from cxrflow.base.schema import SAMPLES

if TYPE_CHECKING:
    from deltalake import DeltaTable

_GENERATION = "cxrflow.generation"
_SCHEMA = pa.schema([*SAMPLES, pa.field("split", pa.string(), nullable=False)])


def is_delta(table: str) -> bool:
    """Whether the samples have a Delta log."""
    return storage.exists(storage.join(table, "samples/_delta_log"))


def check_delta() -> None:
    """Raise UserError if the package deltalake is not installed."""
    require_modules("--delta", "deltalake")


def write_version(table: str, manifest: Manifest) -> int:
    """Commit the manifest's shards as the newest version of the Delta table ``TABLE/samples``; returns its number.

    This changes the log only, and creates it if there is none. Columns that the log lacks are added to it, as a version
    of its own. A version adds the new shards and removes the old ones, with one action per file, as Delta requires.
    """
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction

    url = storage.join(table, "samples")
    schema = Schema.from_arrow(_SCHEMA)
    log = DeltaTable.create(url, schema=schema, partition_by=["split"], mode="ignore")
    properties = CommitProperties(custom_metadata={_GENERATION: str(manifest.generation)})
    known = {field.name for field in log.schema().fields}
    if missing := [field for field in schema.fields if field.name not in known]:  # made by an older version of cxrflow
        log.alter.add_columns(missing, commit_properties=properties)
    sizes, now, active = storage.sizes(url, ".parquet"), int(time.time() * 1000), _active_files(log)
    added = [shard for shard in manifest.shards if shard.path not in active]
    removed = active - {shard.path for shard in manifest.shards}
    actions: list[AddAction | RemoveAction] = [
        AddAction(
            path=shard.path.removeprefix("samples/"),
            size=sizes[storage.join(table, shard.path)],
            partition_values={"split": shard.split},
            modification_time=now,
            data_change=True,
            stats=json.dumps({"numRecords": shard.rows}),
        )
        for shard in added
    ]
    actions += [
        RemoveAction(path=path.removeprefix("samples/"), data_change=True, deletion_timestamp=now)
        for path in sorted(removed)
    ]
    if actions:
        log.create_write_transaction(
            actions,
            "append",
            schema,
            partition_by=["split"],
            commit_properties=properties,
        )
    return DeltaTable(url).version()


def _active_files(log: DeltaTable) -> set[str]:
    """Paths, relative to the table's folder, of the files in the log's newest version."""
    return {"samples/" + unquote(uri).rsplit("/samples/", 1)[1] for uri in log.file_uris()}


def check_unchanged(table: str, manifest: Manifest, may_lag: bool = False) -> None:
    """Raise UserError if the Delta table, if there is one, no longer matches the manifest.

    Deleting, merging or optimizing through Delta writes files that are not shards, and the manifest's shards still
    contain the deleted rows. Jobs must not use either without a warning. ``may_lag`` accepts a log that is older than
    the manifest because an ingest died before it updated the log.
    """
    if not is_delta(table):
        return
    check_delta()
    from deltalake import DeltaTable

    log = DeltaTable(storage.join(table, "samples"))
    found = _active_files(log)
    named = {shard.path for shard in manifest.shards}
    if found == named:
        return
    written_for = log.history(1)[0].get(_GENERATION)
    if written_for is None:
        raise UserError(
            f"--table: expected the Delta table as ingest wrote it, got version {log.version()} with "
            f"{len(found - named)} extra files and {len(named - found)} missing ones: it was changed through "
            "Delta. Remove the unwanted images from the images folder, then ingest with --if-exists overwrite --delta"
        )
    if not may_lag:
        raise UserError(
            f"--table: expected a Delta log of generation {manifest.generation}, like the table, got one of generation "
            f"{written_for}: an ingest died at its end; run it again"
        )
