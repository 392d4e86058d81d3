"""The folders of Kermany et al. (2018) as published: ``train``, ``val`` and ``test``, with a folder for each label."""

from __future__ import annotations

import duckdb

from cxrflow.base import storage
from cxrflow.base.config import IngestConfig
from cxrflow.base.errors import UserError
from cxrflow.catalog.database import query_rows
from cxrflow.catalog.label_matching import EXAMPLES

TITLE = "Kermany et al. (2018)"
_PATTERN = r"^(?:.*/)?(train|val|test)/(NORMAL|PNEUMONIA)/[^/]+$"


def add_folder_splits(catalog: duckdb.DuckDBPyConnection, config: IngestConfig) -> bool:
    """Give each file the split whose folder it is in, if all files are in such folders; returns whether they are.

    With ``--label-format auto``, a ``--split`` other than the default overrides the folders. Raises UserError if
    ``--label-format kermany`` asks for these folders, but files are elsewhere.
    """
    forced = config.label_format == "kermany"
    if not forced and (config.label_format != "auto" or config.split != IngestConfig.split):
        return False
    relative = "substr(path, length(?) + 2)"
    root = storage.absolute(config.images)
    others = query_rows(
        catalog,
        f"""
        SELECT {relative} AS name, count(*) OVER () AS files FROM files
        WHERE NOT hidden AND NOT regexp_matches({relative}, ?) ORDER BY name LIMIT {EXAMPLES}""",
        [root, root, _PATTERN],
    )
    if others and forced:
        raise UserError(
            "--label-format kermany: expected all files in folders such as train/NORMAL, val/PNEUMONIA or test/NORMAL, "
            f"got {others[0]['files']:,} others, such as {', '.join(row['name'] for row in others)}"
        )
    splits = query_rows(
        catalog,
        f"SELECT DISTINCT regexp_extract({relative}, ?, 1) AS split FROM files WHERE NOT hidden",
        [root, _PATTERN],
    )
    if others or (len(splits) < 2 and not forced):
        return False
    catalog.execute(
        f"UPDATE files SET requested_split = regexp_extract({relative}, ?, 1) WHERE NOT hidden", [root, _PATTERN]
    )
    return True
