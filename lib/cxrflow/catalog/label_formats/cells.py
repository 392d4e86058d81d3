"""Small rules that several layouts share: sex, age, views, and lists written as text."""

from __future__ import annotations

import ast
import re

from cxrflow.base.errors import UserError

_SEX = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


def sex_of(cell: str) -> str | None:
    """M, F or O of the usual spellings; None for anything else."""
    return _SEX.get(cell.strip().lower())


def years_of(cell: str) -> float | None:
    """Age in years of a number, or of a DICOM age such as 058Y, 006M or 012D; None for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", cell.strip().upper())
    if not match:
        return None
    return float(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.1775, "D": 365.25}[match[2]]


def is_list(cell: str) -> bool:
    """Whether a cell is a list written as text, such as ``['edema', 'effusion']``."""
    return cell.startswith("[") and cell.endswith("]")


def parse_list(cell: str) -> list[str]:
    """The texts of a list written as Python or JSON writes it. Raises UserError for anything else."""
    try:
        names = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"expected a list of names such as ['edema', 'effusion'], got {cell!r}")
    return [name.strip() for name in names if name.strip()]
