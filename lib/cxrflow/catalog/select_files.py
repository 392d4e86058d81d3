"""Leave out the files that ``--select`` does not want, before decoding, and count why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from cxrflow.base.config import Condition, IngestConfig
from cxrflow.base.errors import UserError
from cxrflow.base.image_columns import IMAGE_COLUMNS
from cxrflow.catalog.database import query_rows

MAX_VALUES = 50
"""Values of a column that are listed with their counts, the most frequent ones."""


@dataclass(frozen=True)
class Selected:
    """What a selection did."""

    left_out: int = 0
    bytes: int = 0
    """Of the files that were left out."""
    removed: int = 0
    """Rows of the table whose file has changed and is left out now."""
    reasons: list[dict] = field(default_factory=list)
    """The first condition that a file does not meet, the value of its column, and the number of such files."""
    values: dict[str, dict[str, int]] = field(default_factory=dict)
    """By column of the selection, the values of all new files, with the number of files."""

    def facts(self) -> dict:
        """What the manifest says about it."""
        return {"left_out": self.left_out, "reasons": self.reasons, "values": self.values}


def select_files(catalog: duckdb.DuckDBPyConnection, config: IngestConfig, conditions: Sequence[Condition]) -> Selected:
    """Delete the new and changed files that do not meet the conditions from the catalog.

    The headers of all these files were read. Raises UserError if no file is left.
    """
    columns = list(dict.fromkeys(condition.column for condition in conditions))
    values = {column: _values(catalog, column) for column in columns}
    for number, condition in enumerate(conditions):
        holds, parameters = _to_sql(condition)
        catalog.execute(
            f"""
            INSERT INTO left_out SELECT path, {number}, {_as_text(condition.column)}
            FROM described SEMI JOIN headers USING (path) ANTI JOIN left_out USING (path) WHERE NOT ({holds})""",
            parameters,
        )
    totals = query_rows(
        catalog,
        """
        SELECT count(*) AS left_out, coalesce(sum(size), 0)::BIGINT AS bytes
        FROM files SEMI JOIN left_out USING (path)""",
    )[0]
    rows = query_rows(
        catalog,
        f"""
        SELECT condition, value, count(*) AS files FROM left_out GROUP BY condition, value
        ORDER BY condition, files DESC, value LIMIT {MAX_VALUES}""",
    )
    reasons = [{**row, "condition": conditions[row["condition"]].text} for row in rows]
    catalog.execute("DELETE FROM files WHERE path IN (SELECT path FROM left_out)")
    if not query_rows(catalog, "SELECT path FROM files WHERE NOT hidden LIMIT 1"):
        met = "; ".join(f"{column} {counts_text(counts)}" for column, counts in values.items())
        raise UserError(
            f"--select: expected at least one image below {config.images!r}, but {config.select!r} leaves out all "
            f"{totals['left_out']:,} files; their values are: {met}"
        )
    return Selected(**totals, removed=_remove_rows(catalog), reasons=reasons, values=values)


def _values(catalog: duckdb.DuckDBPyConnection, column: str) -> dict[str, int]:
    rows = query_rows(
        catalog,
        f"""
        SELECT {_as_text(column)} AS value, count(*) AS files FROM described SEMI JOIN headers USING (path)
        GROUP BY value ORDER BY files DESC, value LIMIT {MAX_VALUES}""",
    )
    return {row["value"]: row["files"] for row in rows}


def _remove_rows(catalog: duckdb.DuckDBPyConnection) -> int:
    """Remove the table's rows of files that are left out now; returns their number."""
    of_left_out = "path IN (SELECT path FROM left_out)"
    rows = query_rows(
        catalog,
        f"""
        SELECT (SELECT count(*) FROM samples WHERE {of_left_out})
            + (SELECT count(*) FROM quarantine WHERE {of_left_out}) AS rows""",
    )[0]["rows"]
    catalog.execute(f"INSERT INTO replaced SELECT path, shard, row FROM samples WHERE {of_left_out}")
    for table in ("samples", "quarantine"):
        catalog.execute(f"DELETE FROM {table} WHERE {of_left_out}")
    return rows


def _to_sql(condition: Condition) -> tuple[str, list]:
    """The condition as a Boolean expression of SQL, never null, and its parameters."""
    column, kind = condition.column, IMAGE_COLUMNS[condition.column]
    name, parameter = {"text": (f"lower({column})", "?"), "number": (column, "?::FLOAT")}.get(kind, (column, "?"))
    if condition.operator not in ("in", "not in"):
        return f"coalesce({name} {condition.operator} {parameter}, false)", list(condition.values)
    known = [value for value in condition.values if value is not None]
    parts = [f"coalesce({name} IN ({', '.join([parameter] * len(known))}), false)"] if known else []
    parts += [f"{column} IS NULL"] if None in condition.values else []
    either = f"({' OR '.join(parts)})"
    return (either if condition.operator == "in" else f"NOT {either}"), known


def _as_text(column: str) -> str:
    """An SQL expression for the column's value, written as in a selection."""
    kind = IMAGE_COLUMNS[column]
    if kind == "flag":
        return f"CASE {column} WHEN true THEN 'yes' WHEN false THEN 'no' ELSE 'none' END"
    return f"coalesce(format('{{:g}}', {column}), 'none')" if kind == "number" else f"coalesce({column}, 'none')"


def counts_text(counts: dict[str, int]) -> str:
    """Values with their counts, for people."""
    return ", ".join(f"{value} {files:,}" for value, files in counts.items())
