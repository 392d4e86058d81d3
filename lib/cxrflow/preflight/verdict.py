"""The table of a preflight and its verdict: rows, in the order of the checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, NOTE, FAILED, SKIPPED = "ok", "note", "FAILED", "not checked"
CHECKS = ("slots", "versions", "network", "table", "run", "shards", "memory", "step")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    check: str
    state: str
    """ok, note (training may go on), FAILED or not checked."""
    found: str
    advice: str = ""
    """What to do, where something is wrong."""
    seconds: float = 0.0
    """Of the slowest worker; checks go on beside each other."""


def ok(check: str, found: str, seconds: float = 0.0) -> Row:
    return Row(check=check, state=OK, found=found, seconds=seconds)


def note(check: str, found: str, advice: str, seconds: float = 0.0) -> Row:
    return Row(check=check, state=NOTE, found=found, advice=advice, seconds=seconds)


def failed(check: str, found: str, advice: str = "", seconds: float = 0.0) -> Row:
    return Row(check=check, state=FAILED, found=found, advice=advice, seconds=seconds)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """A row of every check: a missing one was not checked."""
    found = {row.check: row for row in rows}
    return [found.get(check, Row(check=check, state=SKIPPED, found="")) for check in CHECKS]


def passed(rows: Iterable[Row]) -> bool:
    return not any(row.state == FAILED for row in rows)


def table_lines(rows: list[Row]) -> list[str]:
    """The table, a line a check and one for each piece of advice."""
    width = max(len("verdict"), *(len(row.state) for row in rows))
    lines = [f"{'preflight':<10}{'verdict':<{width + 2}}{'seconds':>7}  what was found"]
    for row in rows:
        seconds = "" if row.state == SKIPPED else f"{row.seconds:.2f}"
        lines.append(f"{row.check:<10}{row.state:<{width + 2}}{seconds:>7}  {row.found}".rstrip())
        lines += [f"{'':<{width + 21}}-> {row.advice}"] if row.advice else []
    return lines
