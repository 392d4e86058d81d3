"""DICOM: every transfer syntax that an encoder is at hand for, and the grayscale pipeline of PS3.3 C.11."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from cxrflow.images import DecodeError
from cxrflow.images.dcm import grayscale
from image_samples import decode, encode, every_decoder, picture

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from dicom_samples import TWELVE, compressed, dataset, saved, with_gdcm


@every_decoder
@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("bits", [8, 12])
def test_uncompressed(syntax, bits, decoder):
    pixels = np.asarray(picture()) if bits == 8 else TWELVE
    decoded = decode(saved(dataset(pixels, syntax, BitsStored=bits)), 120, 160, decoder=decoder)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(picture()))
    assert (decoded.source_format, decoded.source_bits, decoded.note) == ("DICOM", bits, "")
    assert (decoded.source_height, decoded.source_width) == (120, 160)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_syntaxes_give_the_pixels_back(syntax, bits):
    pixels = {8: np.asarray(picture()), 12: TWELVE, 16: np.asarray(picture()).astype(np.uint16) * 257}[bits]
    decoded = decode(compressed(pixels, syntax, BitsStored=bits), 120, 160)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(picture()))
    assert decoded.source_bits == bits


def test_jpeg_baseline():
    data = compressed(np.asarray(picture()), uid.JPEGBaseline8Bit, encode(picture(), "JPEG", quality=95))
    assert np.abs(decode(data, 120, 160).pixels.astype(int) - np.asarray(picture())).max() <= 12


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14"])
def test_jpeg_lossless(name, tmp_path):
    decoded = decode(with_gdcm(dataset(TWELVE, BitsStored=12), name, tmp_path), 120, 160)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(picture()))


def test_jpeg_extended_of_8_and_12_bits(tmp_path):
    data = compressed(np.asarray(picture()), uid.JPEGExtended12Bit, encode(picture(), "JPEG", quality=95))
    assert np.abs(decode(data, 120, 160).pixels.astype(int) - np.asarray(picture())).max() <= 12
    twelve = decode(with_gdcm(dataset(TWELVE, BitsStored=12), "JPEGExtendedProcess2_4", tmp_path), 120, 160)
    assert np.abs(twelve.pixels.astype(int) - np.asarray(picture())).max() <= 12


@pytest.mark.parametrize("signed_low", [-2048, -1000])
@pytest.mark.parametrize("syntax", [None, uid.RLELossless, uid.JPEG2000Lossless])
def test_signed_values(signed_low, syntax):
    pixels = np.linspace(signed_low, 2047, 64 * 64).astype(np.int16).reshape(64, 64)
    made = dataset(pixels, BitsStored=12)
    if syntax:
        made.compress(syntax, generate_instance_uid=False)
    # -2048..2047 is what 12 signed bits hold: (value + 2048) * 256 / 4096
    expected = (pixels.astype(int) + 2048) * 255 / 4095
    assert np.abs(decode(saved(made), 64, 64).pixels - expected).max() <= 0.51


def shown(values, **elements):
    pixels = np.atleast_2d(values)
    decoded = decode(saved(dataset(pixels, **elements)), *pixels.shape)
    return decoded.pixels.tolist(), decoded.note


@pytest.mark.parametrize(
    ("values", "elements", "grays", "note"),
    [
        # no window: what the stored bits hold
        (np.uint16([0, 2048, 4095]), {"BitsStored": 12}, [0, 128, 255], ""),
        (np.uint16([0, 500, 1000]), {"BitsStored": 12}, [0, 31, 62], ""),
        (np.uint16([0, 32768, 65535]), {}, [0, 128, 255], ""),
        # 12 bits declared as 16: by shares of 65535 the brightest would be 15
        (np.uint16([0, 2048, 4095]), {}, [0, 128, 255], "values use 12 of 16 bits"),
        (np.int16([-1000, 0, 1550]), {}, [0, 100, 255], "scaled from its own range, -1000 to 1550"),
        (np.int16([0, 2048, 4095]), {}, [0, 128, 255], "values use 12 of 16 bits"),
        (np.uint8([0, 100, 255]), {"PhotometricInterpretation": "MONOCHROME1"}, [255, 155, 0], "MONOCHROME1 inverted"),
        # a slope keeps the range, a negative one turns it
        (
            np.uint16([0, 2048, 4095]),
            {"BitsStored": 12, "RescaleSlope": 2, "RescaleIntercept": -1024},
            [0, 128, 255],
            "",
        ),
        (
            np.uint16([0, 2048, 4095]),
            {"BitsStored": 12, "RescaleSlope": -1, "RescaleIntercept": 4095},
            [255, 127, 0],
            "",
        ),
        # LINEAR, center 2048, width 4096: ((x - 2047.5) / 4095 + 0.5) * 255
        (np.uint16([0, 2048, 4095]), {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}, [0, 128, 255], ""),
        # center 100, width 51: black up to 74.5, white above 124.5; 87: (-12.5 / 50 + 0.5) * 255 = 63.75
        (np.uint8([0, 74, 87, 112, 125, 255]), {"WindowCenter": 100, "WindowWidth": 51}, [0, 0, 64, 191, 255, 255], ""),
        (np.uint8([99, 100, 101]), {"WindowCenter": 100, "WindowWidth": 1}, [0, 255, 255], ""),
        # LINEAR_EXACT: (x - 100) / 50 + 0.5
        (
            np.uint8([75, 90, 100, 125]),
            {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "LINEAR_EXACT"},
            [0, 76, 128, 255],
            "",
        ),
        # SIGMOID: 255 / (1 + exp(-4 (x - 100) / 50)); at 125: 255 / (1 + e^-2) = 224.6
        (
            np.uint8([75, 100, 125]),
            {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"},
            [30, 128, 225],
            "",
        ),
        # a window is in the units after rescaling: stored 1000 is -24
        (
            np.uint16([1000, 1024, 1049]),
            {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 0.5, "WindowWidth": 51},
            [5, 128, 255],
            "",
        ),
        (
            np.uint8([0, 100, 200]),
            {"WindowCenter": [100, 5], "WindowWidth": [201, 9]},
            [1, 128, 255],
            "first of 2 windows",
        ),
        (
            np.uint8([0, 100, 255]),
            {"WindowCenter": 100, "WindowWidth": 0},
            [0, 100, 255],
            "window left out: center 100, width 0",
        ),
        (
            np.uint8([0, 100, 255]),
            {"WindowCenter": 9000, "WindowWidth": 100},
            [0, 100, 255],
            "window left out: it leaves no contrast",
        ),
        (
            np.uint8([0, 74, 87, 112, 125, 255]),
            {"WindowCenter": 100, "WindowWidth": 51, "PhotometricInterpretation": "MONOCHROME1"},
            [255, 255, 191, 64, 0, 0],
            "MONOCHROME1 inverted",
        ),
    ],
)
def test_gray_values_by_the_standard(values, elements, grays, note):
    if "RescaleSlope" not in elements:
        assert shown(values, **elements) == ([grays], note)
    else:
        got, said = shown(values, **elements)
        np.testing.assert_allclose(got, [grays], atol=1)
        dark = "high stored values are dark by the file's own tables"
        assert said == note or (elements["RescaleSlope"] < 0 and said == dark) or (note == "" and "bits" in said)


def lut(first: int, bits: int, table: list[int], kind: str) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(table), first, bits]
    item.LUTData = table
    item["LUTData"].VR = "US"
    if kind == "modality":
        item.ModalityLUTType = "US"
    return item


def test_voi_lut_goes_before_a_window_and_only_the_first_counts():
    luts = [lut(10, 16, [0, 257 * 50, 65535], "voi"), lut(10, 16, [0, 0, 0], "voi")]
    grays, note = shown(np.uint8([0, 10, 11, 12, 99]), VOILUTSequence=luts, WindowCenter=50, WindowWidth=10)
    assert (grays, note) == ([[0, 0, 50, 255, 255]], "first of 2 VOI LUTs")


def test_modality_lut():
    grays, _ = shown(np.uint8([0, 1, 2, 3]), ModalityLUTSequence=[lut(0, 16, [65535, 32768, 256, 0], "modality")])
    np.testing.assert_allclose(grays, [[255, 128, 1, 0]], atol=1)


def test_a_lut_of_bytes_and_values_on_both_sides_of_it():
    item = lut(-1, 8, [], "voi")
    item["LUTDescriptor"].VR = "SS"
    item.LUTDescriptor, item["LUTData"].VR, item.LUTData = [4, -1, 8], "OW", bytes([10, 20, 30, 40])
    # stored 0..6 is -3..3; entries stand for -1, 0, 1, 2
    grays, _ = shown(np.uint8(range(7)), VOILUTSequence=[item], RescaleIntercept=-3, RescaleSlope=1)
    assert grays == [[10, 10, 10, 20, 30, 40, 40]]
    item.LUTDescriptor = [9, -1, 8]
    assert shown(np.uint8([0, 100, 255]), VOILUTSequence=[item]) == (
        [[0, 100, 255]],
        "VOI LUT left out: 2 of 9 entries",
    )


def test_the_first_of_several_frames_is_shown_with_its_own_window():
    frames = np.stack([np.asarray(picture()), 255 - np.asarray(picture())])
    decoded = decode(saved(dataset(frames, NumberOfFrames=2)), 120, 160)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(picture()))
    assert decoded.note == "first of 2 frames"
    group, window = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 100, 51
    group.FrameVOILUTSequence = [window]
    made = dataset(frames, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[group, group])
    decoded = decode(saved(made), 120, 160)
    expected = np.rint(grayscale.linear(np.asarray(picture()), 100, 51))
    np.testing.assert_array_equal(decoded.pixels, expected)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_the_first_of_several_compressed_frames(syntax):
    made = dataset(np.stack([np.asarray(picture()), 255 - np.asarray(picture())]), NumberOfFrames=2)
    made.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(decode(saved(made), 120, 160).pixels, np.asarray(picture()))


def test_colour_becomes_luma():
    colour = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert decode(saved(dataset(colour)), 16, 16).pixels[0, 0] == 124
    ycbcr = np.asarray(Image.fromarray(colour).convert("YCbCr"))
    made = dataset(np.ascontiguousarray(ycbcr), PhotometricInterpretation="YBR_FULL")
    assert abs(int(decode(saved(made), 16, 16).pixels[0, 0]) - 124) <= 1
    jpeg = encode(Image.fromarray(colour), "JPEG", quality=100, subsampling=2)
    data = compressed(colour, uid.JPEGBaseline8Bit, jpeg, PhotometricInterpretation="YBR_FULL_422")
    assert abs(int(decode(data, 16, 16).pixels[0, 0]) - 124) <= 1


@pytest.mark.parametrize(("keyword", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_float_pixels(keyword, kind):
    values = np.linspace(-1.5, 2.5, 16 * 16).reshape(16, 16)
    values[0, 0] = 1000
    made = dataset(values.astype(np.uint16), BitsAllocated=8 * int(kind[2]))
    del made.PixelData, made.BitsStored, made.HighBit, made.PixelRepresentation
    setattr(made, keyword, values.astype(kind).tobytes())
    setattr(made, f"{keyword.replace('Data', '')}PaddingValue", 1000.0)
    decoded = decode(saved(made), 16, 16)
    expected = (values - values.ravel()[1]) / (2.5 - values.ravel()[1]) * 255
    assert np.abs(decoded.pixels - expected).ravel()[1:].max() <= 0.51 and decoded.pixels[0, 0] == 0


def test_palette_colour_becomes_luma():
    made = dataset(np.uint8([[0, 1]]), PhotometricInterpretation="PALETTE COLOR")
    for name, values in (("Red", (200, 0)), ("Green", (100, 0)), ("Blue", (50, 255))):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(made, f"{name}PaletteColorLookupTableData", np.uint16(values).__mul__(257).tobytes())
    assert np.abs(decode(saved(made), 1, 2).pixels.astype(int) - [[124, 29]]).max() <= 1  # 0.114 * 255 = 29.1


def test_overlays_in_the_unused_bits_are_left_out():
    made = dataset(TWELVE | np.uint16(0x8000), BitsStored=12)
    made.add_new((0x6000, 0x0102), "US", 15)  # the overlay's bit position
    np.testing.assert_array_equal(decode(saved(made), 120, 160).pixels, np.asarray(picture()))
    high = dataset(TWELVE << np.uint16(4), BitsStored=12)
    high.HighBit = 15
    np.testing.assert_array_equal(decode(saved(high), 120, 160).pixels, np.asarray(picture()))


def test_bits_above_those_stored_are_masked_and_noted():
    # PS3.5 8.1.1: 0x400 | 512 is 512 of 1023
    assert shown(np.uint16([0, 0x400 | 512, 1023]), BitsStored=10) == (
        [[0, 128, 255]],
        "bits above the 10 bits stored are set, masked",
    )


def test_signed_values_without_their_sign_get_it():
    # -2048, 0 and 2047 in 12 bits whose upper four are zero
    assert shown(np.int16([0x800, 0, 0x7FF]), BitsStored=12) == ([[0, 128, 255]], "")


def test_dicom_is_detected_before_the_tiff_header_in_its_preamble():
    data = b"II*\0" + saved(dataset(np.asarray(picture())))[4:]
    assert decode(data, 120, 160).source_format == "DICOM"


# --- refusals --------------------------------------------------------------------------------------------------


def refused(data: bytes, **options) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(data, 8, 8, **options)
    return caught.value


def test_an_object_without_an_image():
    made = dataset(np.zeros((4, 4), np.uint8))
    del made.PixelData
    assert refused(saved(made)).reason == "no_pixel_data"


@every_decoder
def test_the_limit_counts_before_decoding(decoder, monkeypatch):
    monkeypatch.setattr("cxrflow.images.decoders.dicom.grayscale.render", pytest.fail)
    data = saved(dataset(np.asarray(picture())))
    assert refused(data, decoder=decoder, max_pixels=1000).reason == "too_large"


def test_without_the_extra_the_detail_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom.filereader", None)
    caught = refused(saved(dataset(np.asarray(picture()))))
    assert caught.reason == "unsupported" and "cxrflow[dicom]" in caught.detail


def test_a_frame_of_another_size_than_declared():
    data = compressed(np.asarray(picture()), uid.JPEG2000Lossless)
    made = pydicom.dcmread(io.BytesIO(data))
    made.Rows = 121
    assert "declares 160 x 121" in refused(saved(made)).detail


@pytest.mark.filterwarnings("ignore:End of file reached before delimiter")  # pydicom's, before we refuse
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_a_file_cut_anywhere_is_refused(syntax):
    made = dataset(TWELVE, uid.ExplicitVRLittleEndian if syntax.is_encapsulated else syntax, BitsStored=12)
    if syntax.is_encapsulated:
        made.compress(syntax, generate_instance_uid=False)
    data = saved(made)
    end = len(data) - (8 if syntax.is_encapsulated else 1)  # the closing delimiter carries nothing, nor does padding
    for cut in (*range(132, end, len(data) // 60), end - 3, end - 1):
        assert refused(data[:cut]).reason in ("truncated", "no_pixel_data"), cut
    assert refused(data[: len(data) // 2]).reason == "truncated"


def test_a_strict_decode_detects_damage_inside_a_frame(tmp_path):
    baseline = compressed(np.asarray(picture()), uid.JPEGBaseline8Bit, encode(picture(), "JPEG"))
    lossless = with_gdcm(dataset(TWELVE, BitsStored=12), "JPEGLosslessProcess14_1", tmp_path)
    jpeg_ls = compressed(TWELVE, uid.JPEGLSLossless, BitsStored=12)
    for data in (baseline, lossless, jpeg_ls):
        for at in range(len(data) // 3, len(data) - 700, 211):
            assert refused(data[:at] + bytes(600) + data[at + 600 :]).reason in ("corrupt", "truncated"), at


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless, uid.JPEGBaseline8Bit])
def test_a_cut_frame_in_a_whole_file_is_refused(syntax):
    """As an archive writes it that got half a frame itself. JPEG 2000's decoder would show it blurred."""
    pixels = TWELVE if syntax != uid.JPEGBaseline8Bit else np.asarray(picture())
    bits = 12 if pixels is TWELVE else 8
    frame = encode(picture(), "JPEG") if bits == 8 else None
    made = pydicom.dcmread(io.BytesIO(compressed(pixels, syntax, frame, BitsStored=bits)))
    whole = get_frame(made.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    for length in (len(whole) - 2, len(whole) * 2 // 3, len(whole) // 3):
        made.PixelData = encapsulate([whole[:length]])
        assert refused(saved(made)).reason in ("truncated", "corrupt"), length


def test_a_missing_package_is_named(monkeypatch):
    data = compressed(TWELVE, uid.JPEGLSLossless, BitsStored=12)
    monkeypatch.setitem(sys.modules, "jpeg_ls", None)
    caught = refused(data)
    assert caught.reason == "unsupported" and "pyjpegls" in caught.detail and "cxrflow[dicom]" in caught.detail
