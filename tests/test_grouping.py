import types

import numpy as np
import pandas as pd
import pytest

from cxrflow.base.errors import UserError
from cxrflow.base.image_groups import NOT_STATED
from cxrflow.catalog.grouping import check_subgroups, columns_for, find_groups, pool_small, taken_groups

MANIFEST = types.SimpleNamespace(
    columns={"path": "string", "source_format": "string", "source_height": "int32", "pixels": "binary"},
    config={"images": "/data/virus"},
)
SAMPLES = pd.DataFrame(
    {
        "path": [
            "/data/virus/P/person1_virus_1.jpeg",
            "/data/virus/P/person2_bacteria_1.jpeg",
            "/data/virus/N/NORMAL2-IM-1-1.jpeg",
            "/data/virus/N/x.jpeg",
        ],
        "source_format": ["JPEG", "PNG", "JPEG", ""],
    }
)


def test_groups_of_a_path_below_the_images_folder():
    assert find_groups("(bacteria|virus|IM|NORMAL2-IM)", SAMPLES, MANIFEST).tolist() == [
        "virus",
        "bacteria",
        "NORMAL2-IM",
        "other",
    ]
    assert find_groups(r"^(\w)/(person)?", SAMPLES, MANIFEST).tolist() == ["P-person", "P-person", "N", "N"]


def test_groups_of_a_column():
    assert find_groups("source_format", SAMPLES, MANIFEST).tolist() == ["JPEG", "PNG", "JPEG", NOT_STATED]
    heights = pd.DataFrame({"path": "x", "source_height": np.arange(100, 140).astype(str)})
    names, counts = np.unique(find_groups("source_height", heights, MANIFEST), return_counts=True)
    assert names.tolist() == ["100 to 109", "110 to 119", "120 to 129", "130 to 139"] and set(counts) == {10}


@pytest.mark.parametrize("by", ["hospital", "pixels", "a.c"])
def test_neither_a_column_nor_a_group(by):
    with pytest.raises(
        UserError, match="--subgroups: expected a regular expression with a .*path, source_format, source_height; got"
    ):
        check_subgroups(by, MANIFEST)


def test_as_many_groups_as_images_are_none():
    samples = pd.DataFrame({"path": [f"/data/virus/{number}.png" for number in range(60)]})
    with pytest.raises(UserError, match="expected at most 50 groups, got 60 from .*, such as 0, 1, 10"):
        find_groups(r"(\d+)", samples, MANIFEST)


WITH_AGES = types.SimpleNamespace(columns={"path": "string", "patient_age": "float", "patient_sex": "string"})
TAKEN = pd.DataFrame(
    {"path": "x", "patient_age": ["0.5", "3", None, "90"], "patient_sex": ["F", "M", None, ""], "n": "1"}
)


def test_age_is_a_grouping_of_tables_that_know_it():
    check_subgroups("age", WITH_AGES)
    assert find_groups("age", TAKEN, WITH_AGES).tolist() == ["0-1", "1-5", NOT_STATED, "80+"]
    with pytest.raises(UserError, match="--subgroups: expected .* source_height; got 'age'"):
        check_subgroups("age", MANIFEST)


def test_columns_are_those_of_the_flag_and_of_the_default_groups():
    assert columns_for("age", WITH_AGES) == ["patient_age", "patient_sex"]
    assert columns_for("path", WITH_AGES) == ["path", "patient_sex", "patient_age"]
    assert columns_for("(x)", MANIFEST) == columns_for(None, MANIFEST) == []


def test_groups_by_how_images_were_taken():
    found = taken_groups(TAKEN)
    assert {name: groups.tolist() for name, groups in found.items()} == {
        "patient_sex": ["F", "M", NOT_STATED, NOT_STATED],
        "age": ["0-1", "1-5", NOT_STATED, "80+"],
    }


def of_patients(**patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images of each of so many patients by group."""
    groups = np.repeat(list(patients), [2 * count for count in patients.values()])
    return groups, np.arange(len(groups)) // 2


def counts(groups: np.ndarray) -> dict:
    names = groups.tolist()
    return {name: names.count(name) // 2 for name in dict.fromkeys(names)}


def test_groups_of_few_patients_are_pooled():
    assert counts(pool_small(*of_patients(A=9, B=5, C=4, D=1))) == {"A": 9, "B": 5, "other": 5}


def test_few_patients_that_cannot_be_pooled_are_not_shown():
    assert counts(pool_small(*of_patients(A=9, B=5, C=3, D=1))) == {"A": 9, "B": 5, None: 4}


def test_many_images_of_one_patient_are_one_patient():
    groups = np.repeat(["A", "B"], [50, 50])
    patients = np.append(np.arange(50), np.zeros(50))
    assert set(pool_small(groups, patients).tolist()) == {"A", None}


@pytest.mark.parametrize(
    ("patients", "shown"),
    [
        ({"0-1": 3, "1-5": 3, "5-18": 9, "80+": 9}, {"0-5": 6, "5-18": 9, "80+": 9}),
        ({"0-1": 9, "18-40": 2, "60-80": 4, "80+": 1}, {"0-1": 9, "18+": 7}),
        ({"0-1": 9, "40-60": 3}, {"0-60": 12}),
        ({"0-1": 9, "80+": 3}, {"0+": 12}),
        ({"1-5": 2, "80+": 2}, {None: 4}),
        ({"5-18": 9, NOT_STATED: 6}, {"5-18": 9, NOT_STATED: 6}),
        ({"5-18": 9, NOT_STATED: 2}, {"5-18": 9, None: 2}),
    ],
)
def test_bands_of_few_patients_are_merged_with_their_neighbours(patients, shown):
    assert counts(pool_small(*of_patients(**patients), by="age")) == shown
