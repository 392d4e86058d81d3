"""Find the file that each row of the labels file refers to.

Published labels files name images in different ways: relative to another folder, with the archive's folder in front, by
the bare file name, or by an identifier without extension. The first rule that finds a file decides:

1. The path is the file's absolute path, or its path relative to the images folder.
2. The path without some of its leading folders is the file's relative path.
3. The path, or a bare file name, is the end of the file's path.
4. As 1 to 3, with the extensions of image files left out on both sides.
5. The file name alone, if it occurs in only one row and one file.

If rules 3 or 4 find several files, this is an error. The matcher never guesses.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.catalog.database import query_rows

EXAMPLES = 10
"""Names shown of rows without a file, of files without a row, and of ambiguous names."""

_EXTENSIONS = r"\.(png|jpe?g|jp2|j2k|jxl|tiff?|bmp|gif|webp|dcm|dicom|dic|ima)$"


@dataclass(frozen=True)
class LabelMatches:
    """How the rows of a labels file and the files below the images folder fit together."""

    rows: int
    rows_without_file: int
    first_rows_without_file: list[str]
    files_without_row: int
    first_files_without_row: list[str]


def match_labels(catalog: duckdb.DuckDBPyConnection, images: str) -> LabelMatches:
    """Fill the table ``matches (row, path)`` from ``given (row, key, ...)`` and ``files (path, hidden, ...)``.

    Raises UserError, with the names, if a row may refer to several files.
    """
    root = storage.absolute(images)
    catalog.execute("CREATE OR REPLACE TABLE matches (row BIGINT, path VARCHAR)")
    # The same forms that storage.absolute gives paths; labels files from Windows have backslashes.
    catalog.execute(
        r"""
        CREATE OR REPLACE TEMP TABLE keys AS SELECT row, key, string_split(ltrim(key, '/'), '/') AS parts FROM (
            SELECT row, regexp_replace(regexp_replace(regexp_replace(replace(trim(key), '\', '/'),
                '^file:/+', '/'), '^dbfs:/', '/dbfs/'), '^(\./)+', '') AS key FROM given)"""
    )
    catalog.execute(
        """
        CREATE OR REPLACE TEMP TABLE listed AS SELECT path, relative, string_split(relative, '/') AS parts FROM (
            SELECT path, substr(path, length(?) + 2) AS relative FROM files WHERE NOT hidden)""",
        [root],
    )
    _match_full_paths(catalog, root)
    _match_path_ends(catalog, "keys", "listed")
    catalog.execute(
        """
        CREATE OR REPLACE TEMP TABLE bare_keys AS
            SELECT row, bare AS key, string_split(ltrim(bare, '/'), '/') AS parts FROM (
                SELECT row, regexp_replace(key, ?, '', 'i') AS bare FROM keys ANTI JOIN matches USING (row))""",
        [_EXTENSIONS],
    )
    catalog.execute(
        """
        CREATE OR REPLACE TEMP TABLE bare_listed AS
            SELECT path, bare AS relative, string_split(bare, '/') AS parts FROM (
                SELECT path, regexp_replace(relative, ?, '', 'i') AS bare FROM listed)""",
        [_EXTENSIONS],
    )
    _match_path_ends(catalog, "bare_keys", "bare_listed")
    _match_unique_names(catalog)
    return _summary(catalog)


def _match_full_paths(catalog: duckdb.DuckDBPyConnection, root: str) -> None:
    catalog.execute(
        r"""
        INSERT INTO matches SELECT row, path FROM keys JOIN listed ON path = CASE
            WHEN regexp_matches(key, '^(/|[A-Za-z][A-Za-z0-9+.-]+:/)') THEN key ELSE ? || '/' || key END""",
        [root],
    )


def _match_path_ends(catalog: duckdb.DuckDBPyConnection, keys: str, listed: str) -> None:
    """Rules 2 and 3, on the tables of full names or on those of names without extension."""
    # Rule 2: the longest end of the row's path that is a file's whole relative path.
    catalog.execute(
        f"""
        INSERT INTO matches SELECT row, arg_min(path, dropped) FROM (
            SELECT row, dropped, array_to_string(list_slice(parts, dropped + 1, len(parts)), '/') AS ending FROM (
                SELECT row, parts, unnest(range(len(parts))) AS dropped FROM {keys} ANTI JOIN matches USING (row)))
        JOIN {listed} ON relative = ending GROUP BY row"""
    )
    # Rule 3: the end of the file's path, of as many parts as the row's path has.
    depths = [
        row["depth"]
        for row in query_rows(
            catalog, f"SELECT DISTINCT len(parts) AS depth FROM {keys} ANTI JOIN matches USING (row) ORDER BY depth"
        )
    ]
    for depth in depths:
        catalog.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE found AS SELECT row, key, list(path ORDER BY path) AS paths
            FROM (SELECT * FROM {keys} ANTI JOIN matches USING (row) WHERE len(parts) = {depth}) AS keys
            JOIN (SELECT path, array_to_string(list_slice(parts, -{depth}, -1), '/') AS ending FROM {listed}
                  WHERE len(parts) > {depth}) AS listed
            ON ending = array_to_string(keys.parts, '/') GROUP BY row, key"""
        )
        _require_one_file(catalog)
        catalog.execute("INSERT INTO matches SELECT row, paths[1] FROM found")


def _require_one_file(catalog: duckdb.DuckDBPyConnection) -> None:
    ambiguous = query_rows(
        catalog, f"SELECT key, paths, count(*) OVER () AS names FROM found WHERE len(paths) > 1 LIMIT {EXAMPLES}"
    )
    if ambiguous:
        lines = "; ".join(f"{row['key']!r} may be {' or '.join(row['paths'][:3])}" for row in ambiguous)
        raise UserError(
            f"--labels: expected names that fit one file each, got {ambiguous[0]['names']:,} that fit several: "
            f"{lines}; write paths relative to the images folder, or remove the copies"
        )


def _match_unique_names(catalog: duckdb.DuckDBPyConnection) -> None:
    """Rule 5. A name that occurs in several rows or several files is ambiguous, so it stays unmatched."""
    catalog.execute(
        """
        INSERT INTO matches SELECT row, path
        FROM (SELECT parts[-1] AS name, any_value(row) AS row FROM keys GROUP BY name HAVING count(*) = 1)
        JOIN (SELECT parts[-1] AS name, any_value(path) AS path FROM listed GROUP BY name HAVING count(*) = 1)
        USING (name) WHERE row NOT IN (SELECT row FROM matches) AND path NOT IN (SELECT path FROM matches)"""
    )


def _summary(catalog: duckdb.DuckDBPyConnection) -> LabelMatches:
    missing = query_rows(
        catalog,
        f"""SELECT key, count(*) OVER () AS total FROM given ANTI JOIN matches USING (row)
            ORDER BY row LIMIT {EXAMPLES}""",
    )
    unlabelled = query_rows(
        catalog,
        f"""SELECT relative, count(*) OVER () AS total FROM listed ANTI JOIN matches USING (path)
            ORDER BY relative LIMIT {EXAMPLES}""",
    )
    return LabelMatches(
        rows=query_rows(catalog, "SELECT count(*) AS rows FROM given")[0]["rows"],
        rows_without_file=missing[0]["total"] if missing else 0,
        first_rows_without_file=[row["key"] for row in missing],
        files_without_row=unlabelled[0]["total"] if unlabelled else 0,
        first_files_without_row=[row["relative"] for row in unlabelled],
    )
