"""A table's samples as a Delta table: the same files, with a log of their versions beside them. No Spark, no JVM."""

from __future__ import annotations

import json
import time
from urllib.parse import unquote

import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest
from cxrflow.base.schema import SAMPLES

_GENERATION = "cxrflow.generation"
_SCHEMA = pa.schema([*SAMPLES, pa.field("split", pa.string(), nullable=False)])


def is_delta(table: str) -> bool:
    return storage.exists(storage.join(table, "samples/_delta_log"))


def check_delta() -> None:
    """Raise UserError where the package is missing."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        raise UserError(
            "--delta: expected the package deltalake, which is not installed; pip install 'cxrflow[delta]'"
        ) from None


def write_version(table: str, manifest: Manifest) -> int:
    """Make the manifest's shards the newest version of the Delta table ``TABLE/samples``; returns its number.

    No file is read, written or moved but the log; the first time, the log is made. A version adds the shards that are
    new and removes those that are gone: Delta allows one action a file.
    """
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction

    place = storage.join(table, "samples")
    schema = Schema.from_arrow(_SCHEMA)
    log = DeltaTable.create(place, schema=schema, partition_by=["split"], mode="ignore")
    sizes, now, active = storage.sizes(place, ".parquet"), int(time.time() * 1000), _active_files(log)
    new = [shard for shard in manifest.shards if shard.path not in active]
    gone = active - {shard.path for shard in manifest.shards}
    actions = [
        AddAction(
            path=shard.path.removeprefix("samples/"),
            size=sizes[storage.join(table, shard.path)],
            partition_values={"split": shard.split},
            modification_time=now,
            data_change=True,
            stats=json.dumps({"numRecords": shard.rows}),
        )
        for shard in new
    ]
    actions += [
        RemoveAction(path=path.removeprefix("samples/"), data_change=True, deletion_timestamp=now)
        for path in sorted(gone)
    ]
    if actions:
        log.create_write_transaction(
            actions,
            "append",
            schema,
            partition_by=["split"],
            commit_properties=CommitProperties(custom_metadata={_GENERATION: str(manifest.generation)}),
        )
    return DeltaTable(place).version()


def _active_files(log) -> set[str]:
    """Paths below the table of the files in the log's newest version."""
    return {"samples/" + unquote(uri).rsplit("/samples/", 1)[1] for uri in log.file_uris()}


def check_unchanged(table: str, manifest: Manifest, may_lag: bool = False) -> None:
    """Raise UserError where the Delta table, if there is one, is no longer what the manifest says.

    Whoever deletes, merges or optimizes through Delta has other files written. Those are no shards, and the manifest's
    shards would bring deleted rows back: neither may be trained on in silence. ``may_lag`` accepts a log that an ingest
    which died did not bring up to date.
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
            f"--table: expected the Delta table as ingest.py wrote it, but version {log.version()} of it has "
            f"{len(found - named)} other files and lacks {len(named - found)}: it was changed through Delta. Make the "
            "table anew with jobs/ingest.py --if-exists overwrite --delta, without the images that are not to be in it"
        )
    if not may_lag:
        raise UserError(
            f"--table: expected the Delta table to be up to date, but its log is of generation {written_for} and the "
            f"table of generation {manifest.generation}: an ingest died at its end; run it again"
        )
