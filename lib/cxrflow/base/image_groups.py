"""Groups of images by how they were taken: sex, age band, view, manufacturer, modality, burned-in text.

The audit of a table, the subgroups of an evaluation and the shift all use these groups. A group of fewer than
MIN_PATIENTS patients is never shown on its own, because it might identify one of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

GROUPED = {
    "patient_sex": "patient_sex",
    "age": "patient_age",
    "view_position": "view_position",
    "manufacturer": "manufacturer",
    "modality": "modality",
    "burned_in_annotation": "burned_in_annotation",
}
"""The column of the table by name of the grouping."""
AGE_BANDS = (0, 1, 5, 18, 40, 60, 80)
"""Years at which a band begins. Children have narrow bands, because their chests change fast."""
MIN_PATIENTS = 5
MAX_NAMED = 12
"""The groups with the most patients have names, all others are OTHER."""
NOT_STATED = "not stated"
OTHER = "other"
BURNED_IN = {True: "burned in", False: "not burned in", "true": "burned in", "false": "not burned in"}


def group_of(grouping: str, value: object) -> str:
    """The group of an image. ``value``: that of its column, or the same as text; None means that it is not known."""
    if grouping == "age":
        return age_band(value)
    if grouping == "burned_in_annotation":
        return BURNED_IN.get(value, NOT_STATED) if isinstance(value, (bool, str)) else NOT_STATED
    return " ".join(value.split()).upper() or NOT_STATED if isinstance(value, str) else NOT_STATED


def age_band(value: object) -> str:
    """The band of an age in years, such as 1-5 for at least 1 and less than 5."""
    try:
        years = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return NOT_STATED
    if not 0 <= years < math.inf:
        return NOT_STATED
    index = max(number for number, first in enumerate(AGE_BANDS) if years >= first)
    return band_name(index, index)


def band_name(first: int, last: int) -> str:
    """The name of the age bands from index ``first`` to ``last`` together."""
    return f"{AGE_BANDS[first]}-{AGE_BANDS[last + 1]}" if last + 1 < len(AGE_BANDS) else f"{AGE_BANDS[first]}+"


def named_groups(patients: Mapping[str, int]) -> set[str]:
    """The groups that may be shown by name: those with the most patients. ``patients``: their number by group."""
    enough = [name for name, count in patients.items() if count >= MIN_PATIENTS and name != OTHER]
    return set(sorted(enough, key=lambda name: (-patients[name], name))[:MAX_NAMED])


def group_order(name: str) -> tuple[float, str]:
    """Sorts names that begin with a number by that number, and all others after them."""
    number = re.match(r"\d+(\.\d+)?", name)
    return float(number[0]) if number else math.inf, name
