"""What a selection leaves out, and the warning where there is none."""

from datetime import datetime, timezone

import pyarrow as pa
import pytest

from cxrflow.base.config import IngestConfig, parse_selection
from cxrflow.base.errors import UserError
from cxrflow.base.schema import HEADER
from cxrflow.catalog.database import insert, new_catalog, query_rows
from cxrflow.catalog.headers import describe_files, suggest_selection
from cxrflow.catalog.select_files import Selected, select_files

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)

FILES = {
    "cr": {"modality": "CR", "view_position": "PA", "patient_age": 17.5, "pixel_spacing_row": 0.143},
    "dx": {"modality": "DX", "view_position": "AP", "patient_age": 18.0, "burned_in_annotation": True},
    "ll": {"modality": "DX", "view_position": "LL", "patient_age": 60.0, "burned_in_annotation": False},
    "ct": {"modality": "CT", "manufacturer": "Two Words", "acquisition_date": "2020-02-29"},
    "sr": {"modality": "SR"},
    "no": {},
}


@pytest.fixture
def described(tmp_path):
    """(the catalog with FILES, their counts)."""
    with new_catalog(str(tmp_path), 64 << 20) as catalog:
        files = [{"path": path, "size": 10, "modified": NOW, "hidden": False, "label": "A"} for path in FILES]
        insert(catalog, "files", pa.Table.from_pylist(files))
        schema = pa.schema([pa.field("path", pa.string()), pa.field("is_dicom", pa.bool_()), *HEADER])
        headers = [{"path": path, "is_dicom": path != "no", **columns} for path, columns in FILES.items()]
        insert(catalog, "headers", pa.Table.from_pylist(headers, schema=schema))
        yield catalog, describe_files(catalog)


@pytest.fixture
def catalog(described):
    return described[0]


def select(catalog, text):
    return select_files(catalog, IngestConfig(images="/x", table="/t", select=text), parse_selection(text))


def left(catalog):
    return [row["path"] for row in query_rows(catalog, "SELECT path FROM files ORDER BY path")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modality in cr,DX", ["cr", "dx", "ll"]),
        ("modality not in CT,SR", ["cr", "dx", "ll", "no"]),
        ("modality not in CT,SR,none", ["cr", "dx", "ll"]),
        ("modality = none", ["no"]),
        ("view_position in PA,none", ["cr", "ct", "no", "sr"]),
        ("patient_age >= 18", ["dx", "ll"]),
        ("patient_age < 18 and modality != DX", ["cr"]),
        ("pixel_spacing_row in 0.143", ["cr"]),
        ("pixel_spacing_row <= 0.143", ["cr"]),
        ("manufacturer = 'two words'", ["ct"]),
        ("acquisition_date >= 2020-02-29", ["ct"]),
        ("burned_in_annotation = no", ["ll"]),
        ("burned_in_annotation not in yes", ["cr", "ct", "ll", "no", "sr"]),
        ("burned_in_annotation in none,no and modality = DX", ["ll"]),
    ],
)
def test_the_files_that_are_left(catalog, text, expected):
    selected = select(catalog, text)
    assert left(catalog) == expected
    assert selected.left_out == len(FILES) - len(expected) == sum(row["files"] for row in selected.reasons)
    assert selected.bytes == 10 * selected.left_out


def test_each_file_is_counted_with_the_first_condition_that_it_does_not_meet(catalog):
    selected = select(catalog, "modality in CR,DX and view_position in PA,AP")
    assert selected.reasons == [
        {"condition": "modality in CR,DX", "value": "CT", "files": 1},
        {"condition": "modality in CR,DX", "value": "SR", "files": 1},
        {"condition": "modality in CR,DX", "value": "none", "files": 1},
        {"condition": "view_position in PA,AP", "value": "LL", "files": 1},
    ]
    assert selected.values == {
        "modality": {"DX": 2, "CR": 1, "CT": 1, "SR": 1, "none": 1},
        "view_position": {"none": 3, "AP": 1, "LL": 1, "PA": 1},
    }


def test_values_are_written_as_in_a_selection(catalog):
    selected = select(catalog, "patient_age not in 18 and burned_in_annotation in yes,no,none")
    assert selected.values["patient_age"] == {"none": 3, "17.5": 1, "18": 1, "60": 1}
    assert selected.values["burned_in_annotation"] == {"none": 4, "no": 1, "yes": 1}


def test_a_selection_that_leaves_nothing_is_an_error_with_the_values(catalog):
    with pytest.raises(UserError, match=r"leaves out all 6 files; their values are: modality DX 2, CR 1, CT 1"):
        select(catalog, "modality = MG")


def test_only_new_files_are_left_out_and_rows_of_changed_ones_are_removed(catalog):
    """ct has changed; the table has old rows of ct and of a file that is as it was, which has no header here."""
    insert(catalog, "files", pa.Table.from_pylist([{"path": "same", "size": 1, "modified": NOW, "hidden": False}]))
    rows = [
        {"path": path, "size": 1, "modified": NOW, "shard": "s", "row": row} for row, path in enumerate(["same", "ct"])
    ]
    insert(catalog, "samples", pa.Table.from_pylist(rows))
    insert(catalog, "quarantine", pa.Table.from_pylist([{"path": "sr", "reason": "no_pixel_data"}]))
    selected = select(catalog, "modality in CR,DX")
    assert (selected.left_out, selected.removed) == (3, 2)
    assert left(catalog) == ["cr", "dx", "ll", "same"]
    assert query_rows(catalog, "FROM replaced") == [{"path": "ct", "shard": "s", "row": 1}]
    assert [row["path"] for row in query_rows(catalog, "FROM samples")] == ["same"]
    assert query_rows(catalog, "FROM quarantine") == []


def test_the_facts_are_plain_data():
    assert Selected(left_out=1, reasons=[], values={}).facts() == {"left_out": 1, "reasons": [], "values": {}}


@pytest.mark.parametrize(
    ("taken", "unusual", "suggestion"),
    [
        ({"modality": {"CR": 5, "DX": 3, "none": 1}, "view_position": {"PA": 9}, "body_part": {"CHEST": 9}}, [], ""),
        ({"modality": {"CT": 8, "CR": 5}}, ["modality"], "modality in CR"),
        ({"modality": {"CT": 8}}, ["modality"], "modality in CT"),
        (
            {"modality": {"DX": 8}, "view_position": {"PA": 5, "LL": 2, "none": 1}},
            ["view_position"],
            "view_position in PA,none",
        ),
        (
            {"modality": {"DX": 8, "SR": 1}, "body_part": {"CHEST": 5, "LEFT HAND": 2, "LUNGS AP": 1}},
            ["modality", "body_part"],
            "modality in DX and body_part in CHEST,'LUNGS AP'",
        ),
        ({"modality": {}, "view_position": {"AP SUPINE": 3, "PA": 1}}, [], ""),
    ],
)
def test_what_is_unusual_among_chest_x_rays(taken, unusual, suggestion):
    found, text = suggest_selection(taken)
    assert (list(found), text) == (unusual, suggestion)
    if text:
        parse_selection(text)


def test_the_counts_of_a_folder(described):
    counts = described[1]
    assert (counts.dicom, counts.without_header) == (5, 0)
    assert counts.taken == {
        "modality": {"DX": 2, "CR": 1, "CT": 1, "SR": 1},
        "view_position": {"none": 2, "AP": 1, "LL": 1, "PA": 1},
        "body_part": {"none": 5},
    }
    assert suggest_selection(counts.taken)[1] == "modality in DX,CR and view_position in AP,PA,none"
