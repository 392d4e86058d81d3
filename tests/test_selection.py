"""The grammar of --select."""

import pytest

from cxrflow.base.config import IngestConfig, parse_selection
from cxrflow.base.errors import UserError


def conditions(text):
    return [(found.column, found.operator, found.values) for found in parse_selection(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "modality in CR,DX and view_position in PA,AP",
            [("modality", "in", ("cr", "dx")), ("view_position", "in", ("pa", "ap"))],
        ),
        ("Modality IN cr , none", [("modality", "in", ("cr", None))]),
        ("modality not in SR,'none'", [("modality", "not in", ("sr", "none"))]),
        ("modality=CR", [("modality", "in", ("cr",))]),
        ("modality != CR", [("modality", "not in", ("cr",))]),
        ("manufacturer = 'GE Medical, Inc.'", [("manufacturer", "in", ("ge medical, inc.",))]),
        ('model = "in and out"', [("model", "in", ("in and out",))]),
        ("patient_age >= 18 and patient_age<90.5", [("patient_age", ">=", (18.0,)), ("patient_age", "<", (90.5,))]),
        ("patient_age in 1, none", [("patient_age", "in", (1.0, None))]),
        ("acquisition_date > 2020-02-29", [("acquisition_date", ">", ("2020-02-29",))]),
        ("burned_in_annotation not in yes", [("burned_in_annotation", "not in", (True,))]),
        ("study_uid = 1.2.840.1", [("study_uid", "in", ("1.2.840.1",))]),
    ],
)
def test_conditions(text, expected):
    assert conditions(text) == expected


def test_a_condition_keeps_its_text():
    assert [found.text for found in parse_selection(" modality in CR, 'D X'  and patient_age>=18 ")] == [
        "modality in CR, 'D X'",
        "patient_age>=18",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column, got the end"),
        ("modalty in CR", "one of the columns study_uid, .*, burned_in_annotation, got 'modalty' at character 1"),
        ("modality", "expected in, not in, = or !=, got the end"),
        ("modality CR", "expected in, not in, = or !=, got 'CR' at character 10"),
        ("modality > CR", "expected in, not in, = or !=, got '>' at character 10"),
        ("modality in", "expected a value, got the end"),
        ("modality in CR,", "expected a value, got the end"),
        ("modality in ,CR", "expected a value, got ',' at character 13"),
        ("modality in CR DX", "a comma, and, or the end .*got 'DX' at character 16"),
        ("modality in CR or modality in DX", "a comma, and, or the end .*got 'or' at character 16"),
        ("modality = CR,DX", "got ',' at character 14"),
        ("modality in CR and", "expected a column, got the end"),
        ("modality not CR", "expected in, got 'CR' at character 14"),
        ("modality in 'CR", 'a value or a closing quote, got "\'" at character 13'),
        ("patient_age >= old", "expected a number or none for patient_age, got 'old' at character 16"),
        ("patient_age >= none", "expected a number or a date, got 'none'"),
        ("acquisition_date < 2020", "a date such as 2024-02-29 or none for acquisition_date, got '2020'"),
        ("burned_in_annotation = maybe", "expected yes, no or none for burned_in_annotation, got 'maybe'"),
    ],
)
def test_errors_name_the_position(text, message):
    with pytest.raises(UserError, match=f"--select: .*{message}"):
        IngestConfig(images="/x", table="/t", select=text)
