import types

import numpy as np
import pandas as pd
import pytest

from cxrflow.base.errors import UserError
from cxrflow.catalog.grouping import check_subgroups, find_groups

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
    assert find_groups("source_format", SAMPLES, MANIFEST).tolist() == ["JPEG", "PNG", "JPEG", "other"]
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
