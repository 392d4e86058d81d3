"""DICOM: what is refused, in which words; which notes a result carries; damaged files never raise anything else."""

import io
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from cxrflow.images import REASONS, DecodeError, Recipe, decode_image
from dicom_cases import CASES, GOOD, PREAMBLE, WIDE, S, encoded, full, lut_item, meta, relabelled, scene, window
from dicom_samples import dataset, saved
from image_samples import LIBRARY_WORDS, decode


def refusal(data: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as refused:
        decode(data, 8, 8)
    assert refused.value.reason in REASONS and not LIBRARY_WORDS.search(refused.value.detail), refused.value.detail
    return refused.value


def notes(**elements) -> str:
    made = {"BitsStored": 12} | elements
    return decode(saved(dataset(made.pop("values", S), **made)), 8, 8).note


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (relabelled(dataset(S[:30], BitsStored=12, Rows=40), uid.JPEGBaseline8Bit), "corrupt", "states JPEG baseline"),
        (saved(dataset(S, BitsStored=12, Rows=80)), "truncated", "expected 8960"),
        (saved(dataset(S, BitsStored=12, Rows=0)), "corrupt", "height and width"),
        (saved(dataset(S, BitsStored=12, PhotometricInterpretation="HSV")), "unsupported", "HSV"),
        (saved(dataset(S, BitsAllocated=24)), "unsupported", "24 bits allocated"),
        (PREAMBLE + meta(uid.ExplicitVRLittleEndian), "truncated", "after its DICOM header"),
        (PREAMBLE + meta(None) + b"\x99" * 300, "corrupt", "no DICOM encoding fits"),
        (PREAMBLE + b"\x02\0\x10\0UI\xff\xff" + bytes(20), "truncated", "ends"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_refusals_in_plain_words(data, reason, words):
    refused = refusal(data)
    assert refused.reason == reason and words in refused.detail, refused.detail


@pytest.mark.parametrize(
    ("modality", "words"),
    [
        ("SR", "a structured report"),
        ("PR", "a presentation state"),
        ("XX", "Digital X-Ray Image Storage - For Present"),
    ],
)
def test_objects_without_an_image(modality, words):
    made = dataset(S, Modality=modality)
    del made.PixelData
    refused = refusal(saved(made))
    assert refused.reason == "no_pixel_data" and refused.detail.startswith(words)


def compressed(frame: bytes, syntax=uid.JPEGBaseline8Bit, **elements) -> bytes:
    made = dataset(S, **{"BitsStored": 12} | elements)
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = syntax
    return saved(made)


@pytest.mark.parametrize(
    ("frame", "reason", "words"),
    [
        (b"not a picture at all", "corrupt", "said to be JPEG baseline"),
        (b"\xff\x0a", "truncated", "JPEG XL"),
        (b"\xff\xd8\xff\xd9", "corrupt", "without a frame header"),
        (struct.pack("<16I", 2, 64, *[0] * 14) + bytes(30), "corrupt", ""),
    ],
)
def test_frames_that_cannot_be_decoded(frame, reason, words):
    refused = refusal(compressed(frame))
    assert refused.reason == reason and words in refused.detail


def test_video_is_named():
    assert "video" in refusal(compressed(b"\0\0\1", "1.2.840.10008.1.2.4.102")).detail


# --- notes -----------------------------------------------------------------------------------------------------------

DARK = lut_item([4096, 0, 12], np.arange(4096)[::-1])


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, ""),
        ({"VOILUTSequence": [DARK]}, "high stored values are dark by the file's own tables"),
        ({"RescaleSlope": -1, "RescaleIntercept": 0}, "high stored values are dark by the file's own tables"),
        ({"WindowCenter": 60000, "WindowWidth": 120000}, "nearly empty: "),
        ({"WindowCenter": 6000, "WindowWidth": 6000}, "clipped: "),
        ({"WindowCenter": 100, "WindowWidth": 100}, "clipped: "),
        ({"values": scene(200), "BitsStored": 12}, "nearly empty: "),
        ({"WindowCenter": [2048, 9], "WindowWidth": [4096, 9]}, "first of 2 windows"),
        (
            {"WindowCenter": [2048, 9], "WindowWidth": [0, 9]},
            "window left out: center 2048, width 0; number 2 of 2 windows",
        ),
        ({"VOILUTSequence": [GOOD, DARK]}, "first of 2 VOI LUTs"),
        ({"VOILUTSequence": [Dataset(), GOOD]}, "VOI LUT left out: it is empty; number 2 of 2 VOI LUTs"),
        ({"BitsStored": 10}, "bits above the 10 bits stored are set, masked"),
        ({"BitsStored": 99}, "bits stored: expected 1 to 16, got 99; 16 assumed"),
        ({"HighBit": 3}, "high bit: expected 11 to 15, got 3; 11 assumed"),
        ({"PhotometricInterpretation": ""}, "no photometric interpretation, MONOCHROME2 assumed"),
        ({"PixelSpacing": [0.2, 0.1]}, "pixels are 2 times as high as wide"),
        ({"PixelSpacing": [0.1, 0.1005]}, ""),
        ({"PixelAspectRatio": ["1", "2"]}, "pixels are 0.5 times as high as wide"),
        ({"PixelSpacing": [0, 0.1]}, "PixelSpacing left out: expected two positive numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_notes(elements, expected):
    got = notes(**elements)
    assert got.startswith(expected) if expected else got == ""


def test_unusual_notes_do_not_quote_the_patient():
    made = dataset(
        S, BitsStored=12, PatientName="Doe^Jane", PatientID="4711", WindowCenter="2047.5", WindowWidth="4095"
    )
    data = saved(made).replace(b"2047.5", b"n.a.  ")
    note = decode(data, 8, 8).note
    assert note.startswith("WindowCenter left out: 'n.a.' is not a number") and "Doe" not in note


@pytest.mark.parametrize(
    ("elements", "rows"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, (40, 28)),  # 40 x 56 pixels, twice as high as wide: 80 x 56 on the display
        ({"ImagerPixelSpacing": [0.1, 0.2]}, (20, 56)),
        ({"PixelAspectRatio": ["2", "1"]}, (40, 28)),
        ({"PixelAspectRatio": ["2", "1"], "PixelSpacing": [0.1, 0.1]}, (40, 56)),
        ({}, (40, 56)),
    ],
)
def test_pad_corrects_unequal_spacing(elements, rows):
    values = np.full((40, 56), 4095, np.uint16)
    data = saved(dataset(values, BitsStored=12, **elements))
    pixels = decode_image(data, Recipe(40, 56, resize="pad")).pixels
    assert ((pixels > 0).any(axis=1).sum(), (pixels > 0).any(axis=0).sum()) == rows
    assert (decode_image(data, Recipe(40, 56)).pixels == 255).all()


# --- damage ----------------------------------------------------------------------------------------------------------

SAMPLES = sorted(CASES)[::9]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(SAMPLES), at=st.floats(0, 0.3), new=st.binary(min_size=1, max_size=30))
@pytest.mark.filterwarnings("ignore")
def test_overwritten_bytes_give_a_reason_in_plain_words(name, at, new):
    data = CASES[name]()[0]
    start = int(at * (len(data) - len(new)))
    try:
        decode_image(data[:start] + new + data[start + len(new) :], Recipe(40, 56, max_pixels=10**6))
    except DecodeError as refused:
        assert refused.reason in REASONS and not LIBRARY_WORDS.search(refused.detail), refused.detail


@pytest.mark.parametrize("encoding", ["explicit", "implicit", "big endian"])
def test_a_file_without_header_that_is_cut_is_refused(encoding):
    data = encoded(encoding)
    for cut in range(200, len(data) - 1, 331):
        assert refusal(data[:cut]).reason in ("truncated", "no_pixel_data", "not_an_image"), cut


@pytest.mark.parametrize("data", [bytes(3000), b"\x08\0" * 900, b"\x02\0\0\0" * 500, b"\x08\0\x05\0CS" + bytes(900)])
def test_other_content_is_not_taken_for_dicom(data):
    assert refusal(data).reason == "not_an_image"


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence", "SharedFunctionalGroupsSequence"])
def test_a_damaged_sequence_is_left_out(keyword):
    made = dataset(S, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    setattr(made, keyword, [GOOD])
    data = saved(made)
    item = data.index(b"SQ") + 8
    assert data[item : item + 4] == b"\xfe\xff\x00\xe0"
    length = int.from_bytes(data[item - 4 : item], "little")
    decoded = decode(data[:item] + b"\x99" * length + data[item + length :], *S.shape)
    assert np.abs(decoded.pixels - WIDE).max() <= 1


@pytest.mark.parametrize(
    "keyword", ["PixelAspectRatio", "PixelPaddingValue", "RescaleSlope", "NumberOfFrames", "HighBit"]
)
@pytest.mark.parametrize("content", [b"\xff" * 3, b"?" * 6, b"\x00" * 40, b"1\\2\\3 "])
def test_a_broken_optional_element_is_left_out(keyword, content):
    made = dataset(S, BitsStored=12)
    if keyword in made:
        del made[keyword]
    made.add_new(keyword, "OB", content)
    data = io.BytesIO()
    made.save_as(data, enforce_file_format=True)
    decoded = decode(data.getvalue(), *S.shape)
    assert decoded.pixels.max() > 100


def test_frames_are_found_with_a_wrong_offset_table():
    import openjpeg.utils

    options = {"bits_stored": 12, "photometric_interpretation": 2, "use_mct": False}
    frames = [bytes(openjpeg.utils.encode_array(values, **options)) for values in (S, 4095 - S)]
    made = dataset(np.stack([S, S]), BitsStored=12, NumberOfFrames=2)
    content = bytearray(encapsulate(frames, fragments_per_frame=2))
    content[12:16] = struct.pack("<I", 77777)
    made.PixelData = bytes(content)
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    decoded = decode(saved(made), *S.shape)
    assert np.abs(decoded.pixels - full(S)).max() <= 1 and decoded.note == "first of 2 frames"


def test_window_function_by_hand():
    # C.11.2.1.2.1: center 100, width 51 is black up to 74.5 and white above 124.5
    np.testing.assert_allclose(window(np.array([74, 87, 112, 125]), 100, 51), [0, 63.75, 191.25, 255])
