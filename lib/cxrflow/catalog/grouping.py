"""Assign samples to subgroups: by how the images were taken, by a column of the table, or by their path."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from cxrflow.base.errors import UserError
from cxrflow.base.image_groups import (
    AGE_BANDS,
    GROUPED,
    MIN_PATIENTS,
    NOT_STATED,
    OTHER,
    band_name,
    group_of,
    named_groups,
)
from cxrflow.base.manifest import Manifest

MAX_GROUPS = 50


def check_subgroups(by: str, manifest: Manifest) -> None:
    """Raise UserError unless ``by`` is a grouping, a column of the table, or a regular expression with a group."""
    known = [name for name in manifest.columns if name != "pixels"]
    known += [name for name, column in GROUPED.items() if column in known and name not in known]
    if by not in known and (by.isidentifier() or not re.compile(by).groups):
        raise UserError(
            "--subgroups: expected a regular expression with a (group), or one of the table's columns "
            f"{', '.join(known)}; got {by!r}"
        )


def columns_for(by: str | None, manifest: Manifest) -> list[str]:
    """The columns of the table that ``--subgroups``, the default subgroups and the shift need."""
    wanted = [*([GROUPED.get(by, by)] if by else []), *GROUPED.values()]
    return [name for name in dict.fromkeys(wanted) if name in manifest.columns]


def taken_groups(samples: pd.DataFrame) -> dict[str, np.ndarray]:
    """The group of each sample, text (n,), for each of GROUPED that the samples have a column of."""
    return {name: _of_grouping(name, samples[column]) for name, column in GROUPED.items() if column in samples.columns}


def find_groups(by: str, samples: pd.DataFrame, manifest: Manifest) -> np.ndarray:
    """The group of each sample, text (n,).

    A numeric column with more than ten values is divided at its quartiles. A regular expression is searched in the path
    below the images folder; its groups joined by - are the name, as for ``--patients``. Samples without a match are in
    the group OTHER, samples without a value of the column in NOT_STATED. Raises UserError if there are more than
    MAX_GROUPS groups.
    """
    if by in GROUPED and GROUPED[by] in samples.columns:
        groups = _of_grouping(by, samples[GROUPED[by]])
    elif by in samples.columns:
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


def pool_small(groups: np.ndarray, patients: np.ndarray, by: str = "") -> np.ndarray:
    """The groups that may be shown, object (n,): none of fewer than MIN_PATIENTS patients.

    Small bands of age are merged with the next one. All other small groups are merged into OTHER. None stands for a
    sample that is not shown at all, because OTHER has too few patients too. ``patients``: any (n,).
    """
    if by == "age":
        groups = _merge_bands(groups, patients)
    counts = {name: _patients(patients, groups == name) for name in np.unique(groups).tolist()}
    shown = np.where(np.isin(groups, list(named_groups(counts))), groups, OTHER).astype(object)
    rest = shown == OTHER
    if 0 < _patients(patients, rest) < MIN_PATIENTS:
        shown[rest] = None
    return shown


def _patients(patients: np.ndarray, rows: np.ndarray) -> int:
    return len(np.unique(patients[rows]))


def _merge_bands(groups: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Merge each band with the following ones until it has MIN_PATIENTS patients; the last one with those before it."""
    bands, first = [], None
    for index in range(len(AGE_BANDS)):
        if first is None and not (groups == band_name(index, index)).any():
            continue
        first = index if first is None else first
        inside = np.isin(groups, [band_name(number, number) for number in range(first, index + 1)])
        if _patients(patients, inside) >= MIN_PATIENTS:
            bands.append((first, index, inside))
            first = None
    if first is not None and bands:  # too few are left above the last band
        start, _, inside = bands.pop()
        rest = [band_name(number, number) for number in range(first, len(AGE_BANDS))]
        inside = inside | np.isin(groups, rest)
        last = max(number for number in range(len(AGE_BANDS)) if (groups == band_name(number, number)).any())
        bands.append((start, last, inside))
    merged = groups.astype(object)
    for start, end, inside in bands:
        merged[inside] = band_name(start, end)
    return merged.astype(str)


def _of_grouping(name: str, column: pd.Series) -> np.ndarray:
    values = column.astype(object).where(column.notna(), None)
    names = {value: group_of(name, value) for value in values.unique()}
    return np.array([names[value] for value in values], dtype=str)


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
    return column.fillna(NOT_STATED).astype(str).replace("", NOT_STATED).to_numpy(str)
