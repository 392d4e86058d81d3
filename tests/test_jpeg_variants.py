"""JPEG files that the fast strict decoder refuses, and JPEG 2000 and JPEG XL files."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from cxrflow.images import DecodeError
from cxrflow.images.checks import jpeg, jpeg_entropy
from image_samples import decode, encode, every_decoder, flat_jpeg, picture

GRAY = np.asarray(picture(48, 64))
COLOR = Image.merge("RGB", [picture(48, 64)] * 3)
SAMPLINGS = {"4:1:0": (0x42, 0x11, 0x11), "3:1:1": (0x31, 0x11, 0x11), "mixed": (0x22, 0x12, 0x21)}


LEVELS = np.random.default_rng(0).integers(20, 236, (4, 12))


@every_decoder
@pytest.mark.parametrize("restart", [0, 2])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_unusual_sampling_is_decoded(sampling, restart, decoder):
    data = flat_jpeg(SAMPLINGS[sampling], LEVELS, restart)
    expected = np.kron(LEVELS, np.ones((8, 8)))
    decoded = decode(data, *expected.shape, decoder=decoder)
    assert np.abs(decoded.pixels - expected).max() <= 1 and decoded.note == ""


@every_decoder
@pytest.mark.parametrize("restart", [0, 2])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_damage_to_a_file_of_unusual_sampling_is_detected(sampling, restart, decoder):
    data = flat_jpeg(SAMPLINGS[sampling], LEVELS, restart)
    scan = data.index(b"\xff\xda") + 14
    for at in range(scan, len(data) - 24, 5):
        for new in (bytes(20), b"\xfe" * 20, b"\xff\xd9", b""):
            with pytest.raises(DecodeError) as refused:
                decode(data[:at] + new + data[at + 20 :], 8, 8, decoder=decoder)
            assert refused.value.reason in ("corrupt", "truncated")


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"subsampling": 2}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_entropy_check_accepts_whole_files(mode, options):
    data = encode(COLOR.convert(mode), "JPEG", **options)
    jpeg_entropy.check_sequential_scan(data, jpeg.read_header(data))


# --- bytes that do not belong to the picture -----------------------------------------------------------------------


def before_marker(data: bytes, marker: int, extra: bytes) -> bytes:
    at = data.index(bytes([0xFF, marker]))
    return data[:at] + extra + data[at:]


@every_decoder
@pytest.mark.parametrize("marker", [0xDB, 0xC0, 0xC4, 0xDA])
@pytest.mark.parametrize("extra", [b"\0", b"\0\1\2", bytes(range(60))])
def test_extraneous_bytes_between_segments_are_left_out(extra, marker, decoder):
    whole = encode(picture(48, 64), "JPEG")
    decoded = decode(before_marker(whole, marker, extra), 48, 64, decoder=decoder)
    np.testing.assert_array_equal(decoded.pixels, decode(whole, 48, 64).pixels)
    assert decoded.note == f"{len(extra)} extraneous bytes left out"


@every_decoder
def test_many_extraneous_bytes_are_refused(decoder):
    with pytest.raises(DecodeError) as refused:
        decode(before_marker(encode(picture(48, 64), "JPEG"), 0xC4, bytes(500)), 48, 64, decoder=decoder)
    assert refused.value.reason == "corrupt"


@every_decoder
@pytest.mark.parametrize("change", ["number", "count", "missing", "twice", "short"])
def test_a_damaged_icc_profile_is_left_out(change, decoder):
    whole = encode(COLOR, "JPEG", icc_profile=bytes(70_000))
    at = whole.index(b"ICC_PROFILE\0")
    end = at - 2 + int.from_bytes(whole[at - 2 : at], "big")
    chunk = whole[at - 4 : end]
    data = {
        "number": whole[: at + 12] + b"\x07" + whole[at + 13 :],
        "count": whole[: at + 13] + b"\x09" + whole[at + 14 :],
        "missing": whole[: at - 4] + whole[end:],
        "twice": whole[: at - 4] + chunk + whole[at - 4 :],
        "short": whole[: at - 4] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + whole[end:],
    }[change]
    decoded = decode(data, 48, 64, decoder=decoder)
    np.testing.assert_array_equal(decoded.pixels, decode(encode(COLOR, "JPEG"), 48, 64).pixels)
    assert decoded.note == "damaged ICC profile left out"
    assert decode(whole, 48, 64, decoder=decoder).note == ""


# --- lossless, 12 bits, JPEG 2000, JPEG XL -------------------------------------------------------------------------


def gdcm_frame(values: np.ndarray, bits: int, name: str, folder) -> bytes:
    """Encode one frame as JPEG with GDCM."""
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    import pydicom
    from pydicom.encaps import get_frame

    from dicom_samples import dataset, with_gdcm

    data = with_gdcm(dataset(values, BitsStored=bits), name, folder)
    frame = get_frame(pydicom.dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)
    return frame[: frame.rindex(b"\xff\xd9") + 2]


@every_decoder
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg(bits, decoder, tmp_path):
    values = GRAY if bits == 8 else GRAY.astype(np.uint16) << (bits - 8)
    data = gdcm_frame(np.ascontiguousarray(values), bits, "JPEGLosslessProcess14_1", tmp_path)
    decoded = decode(data, 48, 64, decoder=decoder)
    np.testing.assert_array_equal(decoded.pixels, GRAY)
    assert decoded.source_format == "JPEG" and decoded.source_bits in (bits, 16)  # GDCM states 16 for 12
    with pytest.raises(DecodeError):
        decode(data[: len(data) // 2], 48, 64, decoder=decoder)


@every_decoder
def test_jpeg_of_12_bits(decoder):
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from pydicom.data import get_testdata_file
    from pydicom.encaps import get_frame

    example = pydicom.dcmread(get_testdata_file("JPGExtended.dcm"))
    frame = get_frame(example.PixelData, 0, number_of_frames=1)
    decoded = decode(frame, example.Rows, example.Columns, decoder=decoder)
    # DCMTK decodes 0 to 264 with a mean of 14.37; shown are the values / 16
    assert (decoded.pixels.min(), decoded.pixels.max()) == (0, 264 >> 4)
    assert (decoded.source_bits, decoded.source_height) == (12, example.Rows)
    with pytest.raises(DecodeError):
        decode(frame[: len(frame) // 2], 48, 64, decoder=decoder)


def test_without_a_decoder_a_lossless_jpeg_is_named(monkeypatch, tmp_path):
    data = gdcm_frame(GRAY, 8, "JPEGLosslessProcess14_1", tmp_path)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "gdcm", None)
    with pytest.raises(
        DecodeError, match="lossless JPEG, 8 bits: expected the package python-gdcm, found none; pip install"
    ) as refused:
        decode(data, 48, 64)
    assert refused.value.reason == "unsupported"


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("container", ["j2k", "jp2"])
def test_jpeg_2000(container, bits):
    pytest.importorskip("openjpeg", reason="the extra dicom is not installed")
    deep = GRAY if bits == 8 else GRAY.astype(np.uint16) << (bits - 8)
    import openjpeg.utils

    if container == "j2k":
        options = {"bits_stored": bits, "photometric_interpretation": 2, "use_mct": False}
        data = bytes(openjpeg.utils.encode_array(deep, **options))
    else:
        buffer = io.BytesIO()
        Image.fromarray(GRAY if bits == 8 else GRAY.astype(np.uint16) << 8).save(buffer, "JPEG2000", irreversible=False)
        data, bits = buffer.getvalue(), 8 if bits == 8 else 16
    decoded = decode(data, 48, 64)
    np.testing.assert_array_equal(decoded.pixels, GRAY)
    assert (decoded.source_format, decoded.source_bits) == ("JPEG2000", bits)
    with pytest.raises(DecodeError, match="ends early"):
        decode(data[: len(data) * 2 // 3], 48, 64)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_xl(bits, colour):
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    values = GRAY if bits == 8 else GRAY.astype(np.uint16) << (bits - 8)
    stored = np.dstack([values] * 3) if colour else values
    data = imagecodecs.jpegxl_encode(stored, lossless=True, bitspersample=bits)
    decoded = decode(data, 48, 64)
    np.testing.assert_array_equal(decoded.pixels, GRAY)
    assert (decoded.source_format, decoded.source_bits) == ("JPEGXL", bits)


@pytest.mark.parametrize(
    ("data", "package"),
    [
        (b"\xff\x4f\xff\x51" + bytes(40), "openjpeg"),
        (b"\xff\x0a" + bytes(40), "imagecodecs"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x4ajxlc\xff\x0a" + bytes(64), "imagecodecs"),
    ],
)
def test_optional_formats_are_named_without_their_package(data, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DecodeError, match=r"JPEG(2000|XL): expected the package .*, found none; pip install"
    ) as refused:
        decode(data, 8, 8)
    assert refused.value.reason == "unsupported"
