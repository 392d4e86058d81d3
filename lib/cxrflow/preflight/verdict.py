"""The rows of the preflight's table, in the order of the checks, and its text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, NOTE, FAILED, SKIPPED = "ok", "note", "FAILED", "not checked"
CHECKS = ("slots", "versions", "keras", "network", "table", "run", "shards", "memory", "step")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check and its result."""

    check: str
    state: str
    """ok, note (training may start), FAILED or not checked."""
    found: str
    advice: str = ""
    """What to do about a note or a failure."""
    seconds: float = 0.0
    """Of the slowest task; checks run at the same time."""


def ok(check: str, found: str, seconds: float = 0.0) -> Row:
    """A check that passed."""
    return Row(check=check, state=OK, found=found, seconds=seconds)


def note(check: str, found: str, advice: str, seconds: float = 0.0) -> Row:
    """A check that passed with something the user should know."""
    return Row(check=check, state=NOTE, found=found, advice=advice, seconds=seconds)


def failed(check: str, found: str, advice: str = "", seconds: float = 0.0) -> Row:
    """A check that failed."""
    return Row(check=check, state=FAILED, found=found, advice=advice, seconds=seconds)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """One row for each of CHECKS; a missing one becomes a row that was not checked."""
    by_check = {row.check: row for row in rows}
    return [by_check.get(check, Row(check=check, state=SKIPPED, found="")) for check in CHECKS]


def passed(rows: Iterable[Row]) -> bool:
    """Whether no check failed."""
    return not any(row.state == FAILED for row in rows)


def table_lines(rows: list[Row]) -> list[str]:
    """The table as text: one line for each check, and one for each advice."""
    width = max(len("result"), *(len(row.state) for row in rows))
    lines = [f"{'preflight':<10}{'result':<{width + 2}}{'seconds':>7}  found"]
    for row in rows:
        seconds = "" if row.state == SKIPPED else f"{row.seconds:.2f}"
        lines.append(f"{row.check:<10}{row.state:<{width + 2}}{seconds:>7}  {row.found}".rstrip())
        lines += [f"{'':<{width + 21}}-> {row.advice}"] if row.advice else []
    return lines
