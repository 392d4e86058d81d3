"""Columns from DICOM headers: real headers of pydicom's examples, and values that break the rules."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from cxrflow.images.dcm.header_columns import HeaderColumns, header_columns, read_header_columns
from dicom_samples import dataset, saved

NONE = dict.fromkeys(HeaderColumns.__annotations__)


def columns(**elements) -> dict:
    """Columns of a file with these elements, without the columns that are None."""
    made = dataset(np.zeros((4, 4), np.uint8))
    del made.SOPInstanceUID, made.PhotometricInterpretation
    for name, value in elements.items():
        setattr(made, name, value)
    return {name: value for name, value in header_columns(made).items() if value is not None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "CT_small.dcm",
            {
                "study_uid": "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322",
                "patient_sex": "O",
                "patient_age": 0.0,
                "modality": "CT",
                "manufacturer": "GE MEDICAL SYSTEMS",
                "model": "RHAPSODE",
                "pixel_spacing": [0.661468, 0.661468],
                "acquisition_date": "1997-04-30",
                "photometric_interpretation": "MONOCHROME2",
            },
        ),
        ("MR_small.dcm", {"modality": "MR", "manufacturer": "TOSHIBA_MEC", "pixel_spacing": [0.3125, 0.3125]}),
        ("examples_palette.dcm", {"modality": "US", "photometric_interpretation": "PALETTE COLOR"}),
        ("no_meta_group_length.dcm", {}),
    ],
)
def test_real_headers(name, expected):
    with open(get_testdata_file(name), "rb") as file:
        got = read_header_columns(file.read())
    assert set(got) == set(NONE)
    assert {key: got[key] for key in expected} == expected


def test_an_empty_header_gives_only_none():
    assert header_columns(Dataset()) == NONE


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PatientAge": "045Y"}, {"patient_age": 45.0}),
        ({"PatientAge": "018M"}, {"patient_age": 1.5}),
        ({"PatientAge": "010W"}, {"patient_age": 0.19}),
        ({"PatientAge": "003D"}, {"patient_age": 0.01}),
        ({"PatientAge": "45"}, {}),
        ({"PatientAge": "999Y"}, {}),
        ({"PatientBirthDate": "19600615", "AcquisitionDate": "20200614"}, {"patient_age": 59.0}),
        ({"PatientBirthDate": "19600615", "AcquisitionDate": "20200615"}, {"patient_age": 60.0}),
        ({"PatientBirthDate": "20210101", "AcquisitionDate": "20200101"}, {}),
        ({"PatientSex": "f"}, {"patient_sex": "F"}),
        ({"PatientSex": "female"}, {}),
        ({"ViewPosition": "pa "}, {"view_position": "PA"}),
        ({"ViewPosition": "", "ImageLaterality": "R"}, {"laterality": "R"}),
        ({"Laterality": "L", "ImageLaterality": ""}, {"laterality": "L"}),
        ({"BodyPartExamined": "Chest"}, {"body_part": "CHEST"}),
        ({"ImagerPixelSpacing": [0.143, 0.143]}, {"pixel_spacing": [0.143, 0.143]}),
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [1, 1]}, {"pixel_spacing": [0.2, 0.1]}),
        ({"PixelSpacing": [0, 1], "ImagerPixelSpacing": [1, 1]}, {"pixel_spacing": [1.0, 1.0]}),
        ({"AcquisitionDateTime": "20240229123000.5+0100"}, {"acquisition_date": "2024-02-29"}),
        ({"StudyDate": "20240101"}, {"acquisition_date": "2024-01-01"}),
        ({"AcquisitionDate": "20230229"}, {}),
        ({"BurnedInAnnotation": "YES"}, {"burned_in_annotation": True}),
        ({"BurnedInAnnotation": "NO"}, {"burned_in_annotation": False}),
        ({"StudyInstanceUID": "1.2.3"}, {"study_uid": "1.2.3"}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom's, on values that break the rules
def test_values(elements, expected):
    made = {key: value for key, value in columns(**elements).items() if key != "acquisition_date" or key in expected}
    assert made == expected


@pytest.mark.parametrize(
    ("scheme", "code", "view"),
    [("SCT", "399348003", "AP"), ("SCT", "272479007", "PA"), ("SRT", "R-10206", "AP"), ("SRT", "R-0000", None)],
)
def test_a_coded_view(scheme, code, view):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, "some words"
    assert columns(ViewCodeSequence=[item]).get("view_position") == view


def test_nothing_that_names_the_patient_is_read():
    secrets = {
        "PatientName": "Doe^Jane",
        "PatientID": "ID4711",
        "AccessionNumber": "ACC123",
        "PatientBirthDate": "19600615",
    }
    made = dataset(np.zeros((4, 4), np.uint8), StudyDate="20200101", **secrets)
    text = repr(read_header_columns(saved(made)))
    assert not any(secret in text for secret in secrets.values())


def test_broken_elements_give_none():
    data = saved(dataset(np.zeros((4, 4), np.uint8), PixelSpacing=["0.1430", "0.1430"], PatientAge="045Y"))
    data = data.replace(b"0.1430", b"??????").replace(b"045Y", b"\xff\xfe\0\0")
    got = read_header_columns(data)
    assert got["pixel_spacing"] is None and got["patient_age"] is None
