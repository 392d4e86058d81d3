"""A row of a labels file means one file, or none, or it is an error; never a guess."""

import duckdb
import pyarrow as pa
import pytest

from cxrflow.base.errors import UserError
from cxrflow.catalog.database import insert, query_rows
from cxrflow.catalog.label_matching import match_labels

ROOT = "/data/xrays"


def match(keys: list[str], files: list[str], root=ROOT):
    """(matches by key, summary) of files given relative to the images folder."""
    with duckdb.connect(config={"threads": 1}) as catalog:
        catalog.execute("CREATE TABLE given (row BIGINT, key VARCHAR)")
        catalog.execute("CREATE TABLE files (path VARCHAR, hidden BOOLEAN)")
        insert(catalog, "given", pa.table({"row": range(len(keys)), "key": pa.array(keys, pa.string())}))
        paths = pa.array([f"{root}/{name}" for name in files], pa.string())
        insert(catalog, "files", pa.table({"path": paths, "hidden": [False] * len(files)}))
        summary = match_labels(catalog, root)
        found = query_rows(catalog, "SELECT key, path FROM matches JOIN given USING (row)")
    return {row["key"]: row["path"].removeprefix(root + "/") for row in found}, summary


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("NORMAL/a.png", "NORMAL/a.png"),
        ("/data/xrays/NORMAL/a.png", "NORMAL/a.png"),
        ("file:/data/xrays/NORMAL/a.png", "NORMAL/a.png"),
        ("file:///data/xrays/NORMAL/a.png", "NORMAL/a.png"),
        ("./NORMAL/a.png", "NORMAL/a.png"),
        (" NORMAL\\a.png ", "NORMAL/a.png"),
        (
            "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
            "train/patient00001/study1/view1_frontal.jpg",
        ),
        ("/mnt/old/machine/xrays/NORMAL/a.png", "NORMAL/a.png"),
        ("00000001_000.png", "images_001/images/00000001_000.png"),
        ("images/00000001_000.png", "images_001/images/00000001_000.png"),
        ("0004cfab-14fd-4e49-80ba-63a80b6bddd6", "stage_2_train_images/0004cfab-14fd-4e49-80ba-63a80b6bddd6.dcm"),
        ("1.2.826.0.1.3680043.8.498.1", "dicom/1.2.826.0.1.3680043.8.498.1.dcm"),
        ("1.2.826.0.1.3680043.8.498.1", "dicom/1.2.826.0.1.3680043.8.498.1"),
        ("a.dcm", "converted/a.PNG"),
        ("p10/p10000032/s50414267/02aa804e", "files/p10/p10000032/s50414267/02aa804e.jpg"),
        ("elsewhere/deep/unique.png", "NORMAL/unique.png"),
        ("a 100%#é?.png", "NORMAL/a 100%#é?.png"),
    ],
)
def test_a_row_finds_its_file(key, file):
    found, summary = match([key], [file])
    assert found == {key: file}
    assert (summary.rows_without_file, summary.files_without_row) == (0, 0)


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"),
        ("1.2.826.0.1", "1.2.826.0.1.5"),
        ("a.png", "xa.png"),
        ("NORMAL/a.png", "NORMAL2/b.png"),
        ("a", "b/a/c.png"),
    ],
)
def test_a_row_finds_no_other_file(key, file):
    found, summary = match([key], [file])
    assert found == {}
    assert (summary.rows_without_file, summary.first_rows_without_file) == (1, [key])
    assert (summary.files_without_row, summary.first_files_without_row) == (1, [file])


def test_names_that_fit_several_files_are_an_error_that_lists_them():
    with pytest.raises(
        UserError, match=r"got 2 that fit several: 'a\.png' may be /data/xrays/x/a\.png or .*y/a\.png; 'b.png'"
    ):
        match(["a.png", "b.png", "c.png"], ["x/a.png", "y/a.png", "x/b.png", "y/b.png", "x/c.png"])


def test_the_full_path_goes_before_the_name():
    found, _ = match(["a.png", "x/a.png"], ["a.png", "x/a.png"])
    assert found == {"a.png": "a.png", "x/a.png": "x/a.png"}


def test_the_extension_counts_if_it_distinguishes_files():
    found, _ = match(["a.png", "a.jpg"], ["x/a.png", "x/a.jpg"])
    assert found == {"a.png": "x/a.png", "a.jpg": "x/a.jpg"}


def test_a_name_that_many_rows_have_is_never_matched_by_the_name_alone():
    # A part of CheXpert: one file is there, and a thousand rows have its name in other folders.
    keys = [f"train/patient{number:05d}/study1/view1_frontal.jpg" for number in range(1000)]
    found, summary = match(keys, ["elsewhere/view1_frontal.jpg"])
    assert found == {}
    assert summary.rows_without_file == 1000
    assert len(summary.first_rows_without_file) == 10


def test_a_large_file_is_matched():
    """500,000 rows and 100,000 files: quadratic work would run into the test's time limit."""
    keys = [f"{number:08d}_000.png" for number in range(500_000)]
    found, summary = match(
        keys, [f"images_{number % 100:03d}/images/{number:08d}_000.png" for number in range(100_000)]
    )
    assert len(found) == 100_000
    assert (summary.rows, summary.rows_without_file) == (500_000, 400_000)
