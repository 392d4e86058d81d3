"""Assign samples to subgroups, by a column of the table or by a regular expression on their path."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest

MAX_GROUPS = 50
OTHER = "other"


def check_subgroups(by: str, manifest: Manifest) -> None:
    """Raise UserError unless ``by`` is a column of the table or a regular expression with a group."""
    columns = [name for name in manifest.columns if name != "pixels"]
    if by not in columns and (by.isidentifier() or not re.compile(by).groups):
        raise UserError(
            "--subgroups: expected a regular expression with a (group), or one of the table's columns "
            f"{', '.join(columns)}; got {by!r}"
        )


def find_groups(by: str, samples: pd.DataFrame, manifest: Manifest) -> np.ndarray:
    """The group of each sample, text (n,).

    A numeric column with more than ten values is divided at its quartiles. A regular expression is searched in the path
    below the images folder; its groups joined by - are the name, as for ``--patients``. Samples without a match are in
    the group "other". Raises UserError if there are more than MAX_GROUPS groups.
    """
    if by in samples.columns:
        groups = _of_column(samples[by])
    else:
        groups = np.array(
            [_of_path(by, path.removeprefix(manifest.config["images"] + "/")) for path in samples["path"]]
        )
    names = np.unique(groups)
    if len(names) > MAX_GROUPS:
        raise UserError(
            f"--subgroups: expected at most {MAX_GROUPS} groups, got {len(names):,} from {by!r}, such as "
            f"{', '.join(names[:3])}"
        )
    return groups


def _of_path(pattern: str, path: str) -> str:
    match = re.search(pattern, path)
    return "-".join(group for group in match.groups() if group) or OTHER if match else OTHER


def _of_column(column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all() and numbers.nunique() > 10:
        quartiles = pd.qcut(numbers, 4, duplicates="drop")
        names = {
            quartile: f"{values.min():g} to {values.max():g}"
            for quartile, values in numbers.groupby(quartiles, observed=True)
        }
        return np.array([names[quartile] for quartile in quartiles])
    return column.fillna(OTHER).astype(str).replace("", OTHER).to_numpy(str)
