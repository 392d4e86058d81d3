"""Which part of a table a sample belongs to: by a column, or by what its path tells."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest

MOST = 50
OTHER = "other"


def check_subgroups(by: str, manifest: Manifest) -> None:
    """Raise UserError where ``by`` is neither a column of the table that subgroups can be made of, nor a regular expression."""
    columns = [name for name in manifest.columns if name != "pixels"]
    if by not in columns and (by.isidentifier() or not re.compile(by).groups):
        raise UserError(
            f"--subgroups: expected a regular expression with a (group), or one of the table's columns {', '.join(columns)}; "
            f"got {by!r}"
        )


def find_groups(by: str, samples: pd.DataFrame, manifest: Manifest) -> np.ndarray:
    """text (n,): each sample's group.

    A column of numbers with more than ten values is cut at its quartiles. A regular expression is searched in the path below
    the images folder, and its groups make up the name, as for ``--patients``; where it is not found the group is "other".
    Raises UserError where there are more than MOST groups.
    """
    if by in samples.columns:
        groups = _of_column(samples[by])
    else:
        groups = np.array(
            [_of_path(by, path.removeprefix(manifest.config["images"] + "/")) for path in samples["path"]]
        )
    names = np.unique(groups)
    if len(names) > MOST:
        raise UserError(
            f"--subgroups: expected at most {MOST} groups, but {by!r} makes {len(names):,}, such as {', '.join(names[:3])}"
        )
    return groups


def _of_path(pattern: str, path: str) -> str:
    match = re.search(pattern, path)
    return "-".join(group for group in match.groups() if group) or OTHER if match else OTHER


def _of_column(column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all() and numbers.nunique() > 10:
        parts = pd.qcut(numbers, 4, duplicates="drop")
        return np.array([f"{numbers[parts == part].min():g} to {numbers[parts == part].max():g}" for part in parts])
    return column.fillna(OTHER).astype(str).replace("", OTHER).to_numpy(str)
