"""Vacuum: remove the files of a table's older generations."""

from __future__ import annotations

import time
from typing import Any

from cxrflow.base import staging_folder, storage
from cxrflow.base.config import VacuumConfig
from cxrflow.base.manifest import read_manifest
from cxrflow.catalog.commit import sweep


def vacuum(config: VacuumConfig) -> dict[str, Any]:
    """Remove what no generation needs any more, also what killed ingests left.

    Returns table, generation (the current one), kept (older generations that stay), removed (files) and seconds. Raises
    UserError if the folder is not a table, or if an ingest is writing to it.
    """
    started, table = time.monotonic(), storage.absolute(config.table)
    read_manifest(table)
    with staging_folder.hold(table, "--table") as (_, held):
        manifest = read_manifest(table)
        swept = sweep(table, manifest, held, config.keep_generations, config.grace_hours * 3600)
    return {
        "table": table,
        "generation": manifest.generation,
        "kept": swept.kept,
        "removed": swept.removed,
        "seconds": round(time.monotonic() - started, 2),
    }
