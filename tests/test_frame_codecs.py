"""Compressed frames: every decoder returns the same values, and none of them passes damage."""

import io
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom import uid
from pydicom.data import get_testdata_files
from pydicom.encaps import generate_frames

from cxrflow.images import DecodeError, Recipe, decode_image
from cxrflow.images.checks import codestream, jpeg, jpeg_lossless, jpegxl
from cxrflow.images.dcm.frame_codecs import decode_deep_jpeg
from dicom_cases import CASES
from dicom_samples import TWELVE, compressed, dataset, with_gdcm
from image_samples import decode, picture

JPEG_XL = b"1.2.840.10008.1.2.4.110"
IMAGECODECS = "imagecodecs is not installed"
EXAMPLES = [path for path in sorted(get_testdata_files()) if Path(path).is_file()]


def without_imagecodecs(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)


def outcome(data: bytes) -> tuple:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decoded = decode_image(data, Recipe(96, 96))
        except DecodeError as refused:
            return refused.reason, refused.detail
    return decoded.pixels.tobytes(), decoded.source_bits, decoded.note


def jpegxl_file(values: np.ndarray, frame: bytes, **elements) -> bytes:
    """pydicom 3.0 cannot write the transfer syntax, so the file is written with another one of the same length."""
    return compressed(values, uid.MPEG2MPML, frame, **elements).replace(uid.MPEG2MPML.encode(), JPEG_XL, 1)


def lossless_frame(folder, bits: int = 12, values: np.ndarray | None = None) -> bytes:
    """A frame by GDCM, which writes predictor 1."""
    if values is None:
        values = TWELVE >> (12 - bits)
    data = with_gdcm(dataset(values, BitsStored=bits), "JPEGLosslessProcess14_1", folder)
    return next(generate_frames(pydicom.dcmread(io.BytesIO(data)).PixelData, number_of_frames=1))


# --- the same values from every decoder ------------------------------------------------------------------------------


def test_every_example_looks_the_same_with_and_without_imagecodecs(monkeypatch):
    pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    contents = {path: Path(path).read_bytes() for path in EXAMPLES} | {name: case()[0] for name, case in CASES.items()}
    found = {name: outcome(data) for name, data in contents.items()}
    without_imagecodecs(monkeypatch)
    assert len(contents) > 300
    assert [name for name, data in contents.items() if outcome(data) != found[name]] == []


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [2, 8, 9, 12, 16])
def test_lossless_jpeg_of_every_predictor_and_depth(bits, predictor, monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    values = np.random.default_rng(0).integers(0, 2**bits, (33, 47)).astype(np.uint8 if bits <= 8 else np.uint16)
    frame = imagecodecs.jpeg8_encode(values, lossless=True, predictor=predictor, bitspersample=bits)
    np.testing.assert_array_equal(decode_deep_jpeg(frame), values)
    assert jpeg_lossless.fits_scan(frame, values) == (predictor == 1)
    without_imagecodecs(monkeypatch)
    if bits >= 8:
        np.testing.assert_array_equal(decode_deep_jpeg(frame), values)
    else:
        with pytest.raises(DecodeError, match="JPEG of 2 bits: expected the package imagecodecs"):
            decode_deep_jpeg(frame)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("installed", [True, False])
def test_lossless_jpeg_by_another_encoder(bits, installed, monkeypatch, tmp_path):
    if installed:
        pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    else:
        without_imagecodecs(monkeypatch)
    values = np.asarray(picture()).astype(np.uint16) << (bits - 8)
    frame = lossless_frame(tmp_path, bits, values if bits > 8 else values.astype(np.uint8))
    np.testing.assert_array_equal(decode_deep_jpeg(frame), values)
    assert jpeg_lossless.fits_scan(frame, values)


# --- damage ----------------------------------------------------------------------------------------------------------


def damaged(frame: bytes):
    """Frames that are cut (also closed by an end marker), lack a stretch, or have one too many."""
    begin, stop = frame.index(b"\xff\xda") + 10, frame.rindex(b"\xff\xd9")
    for at in range(begin, stop - 40, max(1, (stop - begin) // 60)):
        yield frame[:at]
        yield frame[:at] + b"\xff\xd9"
        yield frame[:at] + frame[at + 37 :]
        yield frame[:at] + frame[at : at + 37] + frame[at:]


def overwritten(frame: bytes):
    """Frames with a stretch of other bytes. The strict decoder may pass them, if as many values come out."""
    begin, stop = frame.index(b"\xff\xda") + 10, frame.rindex(b"\xff\xd9")
    for at in range(begin, stop - 40, max(1, (stop - begin) // 60)):
        yield frame[:at] + bytes(37) + frame[at + 37 :]
        yield frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


@pytest.mark.parametrize("installed", [True, False])
def test_a_damaged_lossless_jpeg_is_refused(installed, monkeypatch, tmp_path):
    frame = lossless_frame(tmp_path)
    if installed:
        pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    else:
        without_imagecodecs(monkeypatch)
    for data in damaged(frame):
        with pytest.raises(DecodeError) as refused:
            decode(compressed(TWELVE, uid.JPEGLosslessSV1, data, BitsStored=12), 8, 8)
        assert refused.value.reason in ("corrupt", "truncated")


def test_counting_accepts_nothing_that_the_strict_decoder_refuses(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    frame, refused = lossless_frame(tmp_path), 0
    for data in [*damaged(frame), *overwritten(frame)]:
        try:
            values = imagecodecs.jpeg8_decode(data)
        except Exception:
            continue
        try:
            codestream.check_lossless_scan(data)
        except DecodeError:
            refused += 1
            assert not jpeg_lossless.fits_scan(data, values)
    assert refused > 200


def test_wrong_values_do_not_fit_the_scan(tmp_path):
    frame = lossless_frame(tmp_path)
    assert jpeg_lossless.fits_scan(frame, TWELVE)
    for change in (np.s_[60:, :], np.s_[119:, 80:], np.s_[:, :2]):
        values = TWELVE.copy()
        values[change] = 0
        assert not jpeg_lossless.fits_scan(frame, values)
    assert not jpeg_lossless.fits_scan(frame, TWELVE[:-1])


def test_restart_intervals_are_left_to_the_strict_decoder(tmp_path):
    frame = lossless_frame(tmp_path)
    scan = frame.index(b"\xff\xda")
    assert not jpeg_lossless.fits_scan(frame[:scan] + b"\xff\xdd\x00\x04\x00\xa0" + frame[scan:], TWELVE)
    assert jpeg.read_header(frame).components == (1,)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_jpeg_2000_that_is_cut_and_closed_is_refused(share):
    made = pydicom.dcmread(io.BytesIO(compressed(TWELVE, uid.JPEG2000Lossless, BitsStored=12)))
    frame = next(generate_frames(made.PixelData, number_of_frames=1))
    tile = frame.index(b"\xff\x90")
    part = frame[tile : int(len(frame) * share)]  # with its new length, so that only the decoder can tell
    cut = frame[:tile] + part[:6] + struct.pack(">I", len(part)) + part[10:] + b"\xff\xd9"
    with pytest.raises(DecodeError, match="the JPEG 2000 data of the image are damaged"):
        decode(compressed(TWELVE, uid.JPEG2000Lossless, cut, BitsStored=12), 8, 8)


# --- JPEG XL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("shape", [(40, 56), (300, 17), (64, 64), (9000, 3), (48, 64), (8, 300)])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_the_header_of_jpeg_xl(bits, shape, container):
    imagecodecs = pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    values = np.zeros(shape, np.uint8 if bits == 8 else np.uint16)
    data = imagecodecs.jpegxl_encode(values, lossless=True, bitspersample=bits, usecontainer=container)
    assert jpegxl.read_size(data) == shape and jpegxl.read_header(data).bits == bits
    with pytest.raises(DecodeError, match="JPEG XL"):
        jpegxl.read_size(data[:3] if not container else data[:40])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_xl_in_dicom(bits):
    imagecodecs = pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    values = np.asarray(picture()) if bits == 8 else np.asarray(picture()).astype(np.uint16) << (bits - 8)
    frame = imagecodecs.jpegxl_encode(values, lossless=True, bitspersample=bits)
    data = jpegxl_file(values, frame, BitsStored=bits)
    decoded = decode(data, 120, 160)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(picture()))
    assert (decoded.source_bits, decoded.note) == (bits, "")
    for cut in range(len(frame) // 10, len(frame) - 1, len(frame) // 10):
        with pytest.raises(DecodeError) as refused:
            decode(jpegxl_file(values, frame[:cut], BitsStored=bits), 8, 8)
        assert refused.value.reason in ("corrupt", "truncated")


def test_jpeg_xl_in_colour_becomes_luma():
    imagecodecs = pytest.importorskip("imagecodecs", reason=IMAGECODECS)
    values = np.zeros((40, 60, 3), np.uint8)
    values[:, :30], values[:, 30:] = (200, 0, 0), (0, 0, 200)
    frame = imagecodecs.jpegxl_encode(values, lossless=True)
    pixels = decode(jpegxl_file(values, frame), 40, 60).pixels
    assert set(pixels[:, :30].ravel()) == {60} and set(pixels[:, 30:].ravel()) == {23}


def test_a_jpeg_xl_frame_of_another_size_is_refused():
    frame = b"\xff\x0a" + bytes(60)  # the header of 1 x 1 pixels
    with pytest.raises(DecodeError, match="a frame of 1 x 1 pixels; the file declares 160 x 120"):
        decode(jpegxl_file(TWELVE, frame, BitsStored=12), 8, 8)


def test_without_imagecodecs_jpeg_xl_is_named(monkeypatch):
    without_imagecodecs(monkeypatch)
    frame = b"\xff\x0a" + bytes(60)
    made = jpegxl_file(np.zeros((1, 1), np.uint16), frame, BitsStored=12)
    with pytest.raises(DecodeError, match="expected the package imagecodecs") as refused:
        decode(made, 8, 8)
    assert refused.value.reason == "unsupported"
