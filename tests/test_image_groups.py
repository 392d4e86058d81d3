import numpy as np
import pytest

from cxrflow.base.image_groups import (
    AGE_BANDS,
    GROUPED,
    MAX_NAMED,
    MIN_PATIENTS,
    NOT_STATED,
    OTHER,
    group_of,
    group_order,
    named_groups,
)
from cxrflow.base.schema import SAMPLES


def test_each_grouping_is_of_a_column_of_the_table():
    assert set(GROUPED.values()) <= set(SAMPLES.names)


@pytest.mark.parametrize(
    ("years", "band"),
    [
        (0, "0-1"),
        (0.99, "0-1"),
        (1, "1-5"),
        ("4.9", "1-5"),
        (5.0, "5-18"),
        (18, "18-40"),
        (np.float32(79.5), "60-80"),
        (80, "80+"),
        (120, "80+"),
        (-1, NOT_STATED),
        (float("nan"), NOT_STATED),
        (float("inf"), NOT_STATED),
        (None, NOT_STATED),
        ("", NOT_STATED),
    ],
)
def test_age_bands(years, band):
    assert group_of("age", years) == band


@pytest.mark.parametrize(
    ("grouping", "value", "group"),
    [
        ("manufacturer", " Siemens   Healthineers ", "SIEMENS HEALTHINEERS"),
        ("manufacturer", "SIEMENS HEALTHINEERS", "SIEMENS HEALTHINEERS"),
        ("manufacturer", "  ", NOT_STATED),
        ("patient_sex", "F", "F"),
        ("view_position", None, NOT_STATED),
        ("burned_in_annotation", True, "burned in"),
        ("burned_in_annotation", "false", "not burned in"),
        ("burned_in_annotation", None, NOT_STATED),
        ("burned_in_annotation", float("nan"), NOT_STATED),
    ],
)
def test_text_is_stripped_and_of_one_case(grouping, value, group):
    assert group_of(grouping, value) == group


def test_groups_of_few_patients_have_no_name():
    assert named_groups({"A": MIN_PATIENTS, "B": MIN_PATIENTS - 1, OTHER: 99}) == {"A"}
    many = named_groups({f"{number:02}": 100 - number for number in range(30)})
    assert many == {f"{number:02}" for number in range(MAX_NAMED)}


def test_bands_are_in_order():
    names = [group_of("age", first) for first in AGE_BANDS]
    assert sorted([NOT_STATED, *reversed(names)], key=group_order) == [*names, NOT_STATED]
