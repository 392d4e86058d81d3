"""Columns from DICOM headers: real headers of pydicom's examples, and values that break the rules."""

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from cxrflow.base.image_columns import IMAGE_COLUMNS
from cxrflow.base.patient_key import PatientKey
from cxrflow.images.dcm.file_parser import parse_file
from cxrflow.images.dcm.header_columns import HeaderColumns, header_columns
from cxrflow.images.dcm.header_scan import FIRST_BYTES, scan_header
from cxrflow.images.decode_result import DecodeError
from dicom_samples import dataset, saved

NONE = dict.fromkeys(HeaderColumns.__annotations__)


def read_header_columns(data: bytes) -> HeaderColumns | None:
    return scan_header(lambda size: data[:size]).columns


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
                "pixel_spacing_row": 0.661468,
                "pixel_spacing_column": 0.661468,
                "acquisition_date": "1997-04-30",
                "photometric_interpretation": "MONOCHROME2",
            },
        ),
        ("MR_small.dcm", {"modality": "MR", "manufacturer": "TOSHIBA_MEC", "pixel_spacing_row": 0.3125}),
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
        ({"ImagerPixelSpacing": [0.143, 0.143]}, {"pixel_spacing_row": 0.143, "pixel_spacing_column": 0.143}),
        (
            {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [1, 1]},
            {"pixel_spacing_row": 0.2, "pixel_spacing_column": 0.1},
        ),
        (
            {"PixelSpacing": [0, 1], "ImagerPixelSpacing": [1, 1]},
            {"pixel_spacing_row": 1.0, "pixel_spacing_column": 1.0},
        ),
        ({"AcquisitionDateTime": "20240229123000.5+0100"}, {"acquisition_date": "2024-02-29"}),
        ({"StudyDate": "20240101"}, {"acquisition_date": "2024-01-01"}),
        ({"AcquisitionDate": "20230229"}, {}),
        ({"BurnedInAnnotation": "YES"}, {"burned_in_annotation": True}),
        ({"BurnedInAnnotation": "NO"}, {"burned_in_annotation": False}),
        ({"Manufacturer": "A\x1bB" + "x" * 99}, {"manufacturer": "A B" + "x" * 61}),
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
    assert got["pixel_spacing_row"] is None and got["patient_age"] is None


def test_the_columns_are_those_of_the_table():
    assert list(HeaderColumns.__annotations__) == list(IMAGE_COLUMNS)


def test_the_patient_is_a_hash_of_the_whole_id_and_its_issuer():
    key = PatientKey(b"k" * 16, is_own=True)

    def patient(**elements):
        data = saved(dataset(np.zeros((4, 4), np.uint8), **elements))
        return scan_header(lambda size: data[:size], key).patient_id

    assert patient(PatientID="4711", IssuerOfPatientID="A") == key.patient_id("4711", "A") != patient(PatientID="4711")
    assert patient(PatientID=["A", "1"]) != patient(PatientID=["A", "2"])  # two values, against the standard
    assert patient(PatientName="Doe^Jane") is None


class Reads:
    """The start of a file, and how much of it was asked for."""

    def __init__(self, data: bytes):
        self.data, self.sizes = data, []

    def __call__(self, size: int) -> bytes:
        self.sizes.append(size)
        return self.data[:size]


def test_only_the_start_of_a_file_is_read():
    read = Reads(saved(dataset(np.zeros((2000, 2000), np.uint16), Modality="DX")))
    assert scan_header(read).columns["modality"] == "DX" and read.sizes == [FIRST_BYTES]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_long_header_is_read_as_far_as_needed(syntax):
    made = dataset(np.zeros((2000, 2000), np.uint16), syntax, Modality="DX", BurnedInAnnotation="NO")
    made.add_new(0x00091010, "OB", b"x" * 200_000)  # a private element before the ones of interest
    read = Reads(saved(made))
    columns = scan_header(read).columns
    assert columns["photometric_interpretation"] == "MONOCHROME2" and columns["burned_in_annotation"] is False
    assert len(read.sizes) == 2 and read.sizes[1] < len(read.data)


def test_a_deflated_file_and_a_bare_data_set():
    deflated = saved(dataset(np.zeros((300, 300), np.uint16), uid.DeflatedExplicitVRLittleEndian, Modality="CR"))
    assert read_header_columns(deflated)["modality"] == "CR"
    plain = saved(dataset(np.zeros((300, 300), np.uint16), Modality="CR"))
    bare = plain[plain.index(b"\x08\0\x16\0UI") :]  # without preamble and file meta information
    assert read_header_columns(bare)["modality"] == "CR"


def test_other_files_and_damaged_ones_have_no_columns():
    assert scan_header(Reads(b"\xff\xd8\xff" + b"x" * 10**6)).is_dicom is False
    assert scan_header(Reads(b"")).is_dicom is False
    cut = scan_header(Reads(saved(dataset(np.zeros((4, 4), np.uint8)))[:200]))
    assert cut.is_dicom and (cut.columns is None or cut.columns["sop_uid"] is None)


EXAMPLES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore")
def test_scanning_and_parsing_the_whole_file_agree(path):
    data = path.read_bytes()
    try:
        whole = header_columns(parse_file(data).dataset)
    except DecodeError:
        return
    assert read_header_columns(data) == whole
