"""Multi-label annotations as one text, and back. NumPy only.

The text names the present findings and, with a leading question mark, the unknown ones: ``Effusion|?Edema``. Every
other finding of the table is absent. ``No Finding`` means that all findings are known and absent. The column ``label``
of a multi-label table holds this text. Names are sorted, so equal findings give equal texts.

Shapes: n images, K findings.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from cxrflow.base.errors import UserError

NO_FINDING = "No Finding"
NORMAL_NAMES = {"normal", "negative", "healthy", "no finding", "no findings", "nofinding", "nofindings", "0"}
"""Names that datasets use for an image without findings, in lower case, with blanks between words."""

_NORMAL_WORDS = {"normal", "healthy", "unremarkable", "control", "controls", "false"}
_NEGATIONS = {"no", "non", "not", "without", "absent", "absence", "negative", "neg", "free"}

_EMPTY = ("", "nan")
_CELLS = {"1": 1.0, "true": 1.0, "0": 0.0, "false": 0.0, "-1": math.nan, **dict.fromkeys(_EMPTY, math.nan)}


def is_normal(label: str) -> bool:
    """Whether a label means that the image shows no finding."""
    return re.sub(r"[\s_-]+", " ", label.strip().lower()) in NORMAL_NAMES


def find_positive(labels: list[str]) -> int | None:
    """The index of the positive label, the one that sensitivity refers to; None if the names do not show it.

    Of two labels exactly one must be negative by its name: ``Non-COVID``, ``no_disease``, ``No Findings``, ``NORMAL``.
    Of more labels it is the last that is not, or the last; no metric depends on it.
    """
    negative = [_is_negative(label, labels) for label in labels]
    if len(labels) == 2:
        return negative.index(False) if negative.count(True) == 1 else None
    return max((index for index, own in enumerate(negative) if not own), default=len(labels) - 1)


def _is_negative(label: str, labels: list[str]) -> bool:
    """Whether a label says that a finding is absent. ``labels``: all of them, which show what ``NonCOVID`` negates."""
    if is_normal(label):
        return True
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)  # NoFinding
    words = re.findall(r"[^\W_]+", spaced.lower())
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in _NEGATIONS:
            return following not in _NORMAL_WORDS  # "not normal" is positive
        if word in _NORMAL_WORDS:
            return True
    joined = "".join(words)
    others = {"".join(re.findall(r"[^\W_]+", other.lower())) for other in labels} | {"finding", "findings", "disease"}
    return any(joined.removeprefix(prefix) in others - {joined} for prefix in ("no", "non", "not"))


def to_text(present: Iterable[str], unknown: Iterable[str] = ()) -> str:
    """The label text of one image."""
    return "|".join([*sorted(present), *(f"?{name}" for name in sorted(unknown))]) or NO_FINDING


def from_text(text: str) -> tuple[set[str], set[str]]:
    """(present, unknown) findings of a label text. Raises UserError if the text contradicts itself."""
    names = {name.strip() for name in text.split("|")} - {""}
    findings = {name for name in names if not is_normal(name)}
    unknown = {name.removeprefix("?").strip() for name in findings if name.startswith("?")}
    present = {name for name in findings if not name.startswith("?")}
    if (present and len(findings) < len(names)) or present & unknown:
        raise UserError(
            f"expected findings that can occur together, or a single name for an image without findings, got {text!r}"
        )
    return present, unknown


def from_cells(cells: dict[str, str | None]) -> str | None:
    """The label text of one row of a labels file with a column for each finding; None if every finding is unknown.

    A cell is 1 for present, 0 for absent, and -1, nan or empty for unknown. A column such as ``No Finding`` is not a
    finding itself: if it holds 1, the empty cells of its row count as 0. Raises UserError for any other cell.
    """
    texts = {name: (cell or "").strip().lower().removesuffix(".0") for name, cell in cells.items()}
    for name, text in texts.items():
        if text not in _CELLS:
            raise UserError(f"expected 1, 0, -1 or an empty cell in the column {name}, got {cells[name]!r}")
    normal = any(_CELLS[text] == 1 for name, text in texts.items() if is_normal(name))
    states = {
        name: 0.0 if normal and text in _EMPTY else _CELLS[text] for name, text in texts.items() if not is_normal(name)
    }
    unknown = [name for name, state in states.items() if math.isnan(state)]
    if len(unknown) == len(states):
        return None
    return to_text((name for name, state in states.items() if state == 1), unknown)


def to_states(texts: Collection[str], findings: list[str]) -> np.ndarray:
    """float32 (n, K): 1 for present, 0 for absent, NaN for unknown. Raises ValueError for a finding not in the list."""
    rows = {text: _row(text, findings) for text in set(texts)}
    return np.array([rows[text] for text in texts], np.float32).reshape(-1, len(findings))


def _row(text: str, findings: list[str]) -> list[float]:
    present, unknown = from_text(text)
    if unexpected := (present | unknown).difference(findings):
        raise ValueError(f"expected the findings {', '.join(findings)}, got {', '.join(sorted(unexpected))}")
    return [1.0 if name in present else math.nan if name in unknown else 0.0 for name in findings]


def from_predicted(predicted: np.ndarray, findings: list[str]) -> list[str]:
    """The label texts of predictions, bool (n, K)."""
    return [
        to_text(name for name, positive in zip(findings, row, strict=True) if positive) for row in predicted.tolist()
    ]


def tally(rows: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Count rows by finding, (present, unknown), from the number of rows of each label text."""
    present: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for text, count in rows.items():
        for counter, names in zip((present, unknown), from_text(text), strict=True):
            counter.update(dict.fromkeys(names, count))
    return dict(sorted(present.items())), dict(sorted(unknown.items()))
