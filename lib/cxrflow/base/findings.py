"""Several findings of an image as one text, and back. NumPy only.

The text names the findings that are present and, with a question mark in front, those of which nothing is known:
``Effusion|?Edema``. Every other finding of the table is absent; ``No Finding`` stands for an image where none is
present and all are known. The column label of a table of several findings holds it, in one order, so that the same
findings are the same text.

Letters: n images, K findings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from cxrflow.base.errors import UserError

NO_FINDING = "No Finding"
NORMAL_NAMES = {"normal", "negative", "healthy", "no finding", "no_finding", "nofinding", "0"}
"""How data sets call it, in lower case."""

_EMPTY = ("", "nan")
_CELLS = {"1": 1.0, "true": 1.0, "0": 0.0, "false": 0.0, "-1": math.nan, **dict.fromkeys(_EMPTY, math.nan)}


def is_normal(label: str) -> bool:
    """Whether a label says that there is nothing to find."""
    return label.strip().lower() in NORMAL_NAMES


def to_text(present: Iterable[str], unknown: Iterable[str] = ()) -> str:
    return "|".join([*sorted(present), *(f"?{name}" for name in sorted(unknown))]) or NO_FINDING


def from_text(text: str) -> tuple[set[str], set[str]]:
    """(present, unknown) of a text. Raises UserError where it contradicts itself."""
    names = {name.strip() for name in text.split("|")} - {""}
    findings = {name for name in names if not is_normal(name)}
    unknown = {name.removeprefix("?").strip() for name in findings if name.startswith("?")}
    present = {name for name in findings if not name.startswith("?")}
    if (present and len(findings) < len(names)) or present & unknown:
        raise UserError(
            f"expected findings that can be true together, or one name alone that means there is none, got {text!r}"
        )
    return present, unknown


def from_cells(cells: dict[str, str | None]) -> str | None:
    """The text of a line of a labels file that has a column a finding; None where nothing is known of any.

    A cell is 1 where the finding is present, 0 where it is absent, and empty (or nan) or -1 where that is not known. A
    column whose name means that there is nothing to find is no finding: where it has 1, the empty cells beside it are 0.
    Raises UserError for another cell.
    """
    said = {name: (cell or "").strip().lower().removesuffix(".0") for name, cell in cells.items()}
    for name, cell in said.items():
        if cell not in _CELLS:
            raise UserError(f"expected 1, 0, -1 or nothing in the column {name}, got {cells[name]!r}")
    none = any(_CELLS[cell] == 1 for name, cell in said.items() if is_normal(name))
    states = {
        name: 0.0 if none and cell in _EMPTY else _CELLS[cell] for name, cell in said.items() if not is_normal(name)
    }
    unknown = [name for name, state in states.items() if math.isnan(state)]
    return (
        None
        if len(unknown) == len(states)
        else to_text((name for name, state in states.items() if state == 1), unknown)
    )


def to_states(texts: Collection[str], findings: list[str]) -> np.ndarray:
    """float32 (n, K): 1 where a finding is present, 0 where it is absent, NaN where that is not known.

    Raises ValueError for a text that names another finding.
    """
    known = {text: _row(text, findings) for text in set(texts)}
    return np.array([known[text] for text in texts], np.float32).reshape(-1, len(findings))


def _row(text: str, findings: list[str]) -> list[float]:
    present, unknown = from_text(text)
    if strange := (present | unknown).difference(findings):
        raise ValueError(f"expected the findings {', '.join(findings)}, found {', '.join(sorted(strange))}")
    return [1.0 if name in present else math.nan if name in unknown else 0.0 for name in findings]


def from_predicted(called: np.ndarray, findings: list[str]) -> list[str]:
    """The texts of bool (n, K): which findings are called."""
    return [to_text(name for name, call in zip(findings, row, strict=True) if call) for row in called.tolist()]


def tally(rows: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Of rows by text, those by finding: (where it is present, where it is not known)."""
    present, unknown = Counter(), Counter()
    for text, count in rows.items():
        for counter, names in zip((present, unknown), from_text(text), strict=True):
            counter.update(dict.fromkeys(names, count))
    return dict(sorted(present.items())), dict(sorted(unknown.items()))
