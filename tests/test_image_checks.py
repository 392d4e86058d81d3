"""Damaged files (cut, overwritten or incomplete) are refused, or give exactly the pixels of the undamaged file."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrflow.images import DecodeError
from image_samples import LIBRARY_WORDS, chunk, decode, encode, every_decoder, picture, tiff

PICTURE = picture(48, 64)
RGB = PICTURE.convert("RGB")
PAGES = {"save_all": True, "append_images": [picture(48, 64, seed=1)]}
FILES = {
    "JPEG": encode(PICTURE, "JPEG"),
    "JPEG colour": encode(RGB, "JPEG"),
    "JPEG optimised": encode(PICTURE, "JPEG", optimize=True),
    "JPEG progressive": encode(RGB, "JPEG", progressive=True),
    "JPEG restarts": encode(PICTURE, "JPEG", restart_marker_rows=1),
    "JPEG CMYK": encode(PICTURE.convert("CMYK"), "JPEG"),
    "PNG": encode(PICTURE),
    "PNG 16": encode(Image.fromarray(np.asarray(PICTURE).astype(np.uint16) * 257)),
    "TIFF": encode(PICTURE, "TIFF"),
    "BigTIFF": encode(PICTURE, "TIFF", big_tiff=True),
    "TIFF directory last": tiff(np.asarray(PICTURE)),
    "TIFF LZW": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "TIFF deflate": encode(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF PackBits": encode(PICTURE, "TIFF", compression="packbits"),
    "TIFF JPEG": encode(PICTURE, "TIFF", compression="jpeg"),
    "TIFF pages": encode(PICTURE, "TIFF", **PAGES),
    "BMP": encode(PICTURE, "BMP"),
    "GIF": encode(PICTURE, "GIF"),
    "GIF frames": encode(PICTURE, "GIF", **PAGES),
    "WebP": encode(PICTURE, "WEBP"),
    "WebP lossless": encode(PICTURE, "WEBP", lossless=True),
    "WebP frames": encode(PICTURE, "WEBP", **PAGES),
}


def pixels(data: bytes, decoder: str = "turbo") -> np.ndarray:
    return decode(data, 48, 64, decoder=decoder).pixels


def refusal(data: bytes, decoder: str = "turbo") -> str:
    """Return the reason of the refusal; fail if the file decodes."""
    with pytest.raises(DecodeError) as refused:
        pixels(data, decoder)
    return plain(refused.value).reason


def plain(refused: DecodeError) -> DecodeError:
    """Check that the detail is a sentence for people."""
    assert refused.detail and not LIBRARY_WORDS.search(refused.detail), refused.detail
    return refused


def assert_refused_or_same(data: bytes, whole: np.ndarray, decoder: str = "turbo") -> str:
    try:
        np.testing.assert_array_equal(pixels(data, decoder), whole)
    except DecodeError as refused:
        return plain(refused).reason
    return "same"


@every_decoder
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_refused(name, decoder):
    data = FILES[name]
    whole = pixels(data, decoder)
    cuts = {*range(1, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}
    reasons = {cut: assert_refused_or_same(data[:cut], whole, decoder) for cut in sorted(cuts)}
    # the first page may be complete, and the last padding byte of a strip has no content
    assert {reason for cut, reason in reasons.items() if cut > 12} <= {"truncated", "same"}
    assert list(reasons.values()).count("same") == 0 or name == "TIFF pages"


@every_decoder
@pytest.mark.parametrize("name", FILES)
def test_half_a_file_is_truncated(name, decoder):
    if name != "TIFF pages":  # its first page is in the first half
        assert refusal(FILES[name][: len(FILES[name]) // 2], decoder) == "truncated"


@pytest.mark.parametrize("name", FILES)
def test_bytes_after_the_end_are_harmless(name):
    np.testing.assert_array_equal(pixels(FILES[name] + b"\0\0trailing\xff\xd8\xff"), pixels(FILES[name]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(FILES)), at=st.floats(0, 1), new=st.binary(min_size=1, max_size=40))
def test_overwritten_bytes_never_raise_anything_else(name, at, new):
    data = FILES[name]
    start = int(at * (len(data) - len(new)))
    try:
        decode(data[:start] + new + data[start + len(new) :], 48, 64, max_pixels=1_000_000)
    except DecodeError as refused:
        plain(refused)


# --- formats with checksums: every changed byte is detected ---------------------------------------------------------


@every_decoder
@pytest.mark.parametrize("name", ["PNG", "PNG 16"])
def test_every_changed_byte_of_a_png_is_detected(name, decoder):
    data = FILES[name]
    for at in range(8, len(data), max(1, len(data) // 150)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        assert refusal(bytes(broken), decoder) in ("corrupt", "truncated"), at


def png(stream: bytes, *more: bytes) -> bytes:
    """Build a 4 x 2 gray PNG with this image stream, followed by these chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", stream) + b"".join(more)


ROWS = zlib.compress(bytes(10))
END = chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(ROWS), "truncated"),  # no IEND
        (png(ROWS, chunk(b"tEXt", b"a\0b")[:-1] + b"!", END), "corrupt"),  # the checksum of a chunk that is mere text
        (png(ROWS[:-1] + bytes([ROWS[-1] ^ 1]), END), "corrupt"),  # Adler-32
        (png(ROWS[:-4], END), "truncated"),  # no Adler-32
        (png(zlib.compress(bytes(9)), END), "truncated"),  # a pixel too few
        (png(zlib.compress(bytes(11)), END), "corrupt"),  # a pixel too many
        (png(b"", END), "truncated"),
        (b"\x89PNG\r\n\x1a\n" + END, "corrupt"),  # no header
    ],
)
def test_a_png_whose_stream_is_not_the_image(data, reason):
    np.testing.assert_array_equal(decode(png(ROWS, END), 2, 4).pixels, 0)  # the same file undamaged is read
    assert refusal(data) == reason


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 7), (33, 2)])
@pytest.mark.parametrize("depth", [1, 8, 16])
def test_the_rows_of_an_interlaced_png_are_counted(size, depth):
    # Adam7 has seven passes with rows of their own; we count them one by one, the check uses a formula
    from cxrflow.images.checks.png import expected_bytes

    height, width = size
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    total = 0
    for top, left, row_step, column_step in passes:
        columns = len(range(left, width, column_step))
        total += sum(1 + -(-columns * depth // 8) for _ in range(top, height, row_step) if columns)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 1)
    assert expected_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)) == total


def test_a_changed_byte_in_a_deflated_tiff_strip_is_detected():
    data = FILES["TIFF deflate"]
    whole = pixels(data)
    results = [
        assert_refused_or_same(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :], whole)
        for at in range(10, len(data) - 4, 41)
    ]
    assert set(results) <= {"corrupt", "truncated", "unsupported", "same"} and results.count("same") < 8


def test_a_stretch_overwritten_in_a_jpeg_strip_of_a_tiff_is_detected():
    data = encode(picture(), "TIFF", compression="jpeg")
    assert decode(data, 120, 160).source_bits == 8
    for at in range(len(data) // 3, len(data) - 600, 101):
        assert refusal(data[:at] + bytes(512) + data[at + 512 :]) in ("corrupt", "truncated"), at


# --- JPEG: no checksum, but strict decoding ---------------------------------------------------------------------

JPEGS = [name for name in FILES if name.startswith("JPEG")]
END_MARKER = b"\xff\xd9"


def scan_start(data: bytes) -> int:
    return data.index(b"\xff\xda") + 14


@every_decoder
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_without_its_end_marker_is_truncated(name, decoder):
    assert FILES[name].endswith(END_MARKER)
    assert refusal(FILES[name][:-2], decoder) == "truncated"


@every_decoder
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_with_an_early_end_marker_is_refused(name, decoder):
    data = FILES[name]
    for at in range(scan_start(data), len(data) - 12, max(1, len(data) // 40)):
        assert refusal(data[:at] + END_MARKER, decoder) in ("corrupt", "truncated"), at
        assert refusal(data[:at] + END_MARKER + data[at:], decoder) in ("corrupt", "truncated"), at


@every_decoder
def test_a_progressive_jpeg_with_a_scan_left_out_is_truncated(decoder):
    data = FILES["JPEG progressive"]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    tables = [data.rindex(b"\xff\xc4", 0, at) for at in scans[1:]]
    assert len(scans) > 5
    for cut in tables:
        assert refusal(data[:cut] + END_MARKER, decoder) == "truncated"


@every_decoder
def test_a_long_stretch_overwritten_in_a_real_scan_is_detected(real_images, decoder):
    # measured: all of 240 stretches of 1,024 bytes or more were detected; of 64 zeros, one in seven was not
    rng = np.random.default_rng(0)
    for path in sorted(real_images.glob("*/*"))[::70]:
        data = path.read_bytes()
        for length in (1024, 4096):
            at = int(rng.integers(scan_start(data), len(data) - length - 2))
            for new in (bytes(length), rng.bytes(length), b""):
                with pytest.raises(DecodeError):
                    decode(data[:at] + new + data[at + length :], 224, 224, decoder=decoder)


@every_decoder
def test_a_zeroed_tail_of_a_real_file_is_detected(real_images, decoder):
    for path in sorted(real_images.glob("*/*"))[::70]:
        data = path.read_bytes()
        half = len(data) // 2
        assert refusal(data[:half] + bytes(len(data) - half), decoder) == "truncated"
        assert refusal(data[:half] + bytes(len(data) - half - 2) + END_MARKER, decoder) == "corrupt"


def test_gray_jpeg_with_unusual_sampling_factors_is_read():
    data = FILES["JPEG"]
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x11
    for factors in (0x21, 0x22, 0x44):
        other = data[: frame + 11] + bytes([factors]) + data[frame + 12 :]
        np.testing.assert_array_equal(pixels(other), pixels(data))


@every_decoder
@pytest.mark.parametrize(
    ("process", "bits", "words"),
    [(0xC2, 12, "progressive JPEG, 12 bits"), (0xCB, 8, "arithmetic lossless JPEG"), (0xC5, 8, "hierarchical JPEG")],
)
def test_unsupported_kinds_of_jpeg_are_named(process, bits, words, decoder):
    data = FILES["JPEG"]
    frame = data.index(b"\xff\xc0")
    other = data[: frame + 1] + bytes([process]) + data[frame + 2 : frame + 4] + bytes([bits]) + data[frame + 5 :]
    with pytest.raises(DecodeError, match=words) as refused:
        pixels(other, decoder)
    assert refused.value.reason == "unsupported"


# --- containers without a checksum: missing data are detected, overwritten data are not --------------------------


@pytest.mark.parametrize(
    ("name", "at", "new", "reason"),
    [
        ("BMP", 2, struct.pack("<I", 10**6), "truncated"),
        ("BMP", 22, struct.pack("<i", 4800), "truncated"),
        ("WebP", 4, struct.pack("<I", 10**6), "truncated"),
        ("GIF", len(FILES["GIF"]) - 1, b"\0", "corrupt"),  # something else than the trailer
    ],
)
def test_declared_sizes_are_checked_against_the_file(name, at, new, reason):
    data = bytearray(FILES[name])
    data[at : at + len(new)] = new
    assert refusal(bytes(data)) == reason


def test_a_strip_beyond_the_end_of_a_tiff():
    assert refusal(tiff(np.asarray(PICTURE), t273=10**6)) == "truncated"
    assert refusal(tiff(np.asarray(PICTURE), t279=10**6)) == "truncated"


def test_tiff_pages_in_a_cycle():
    data = tiff(np.asarray(PICTURE))
    first = struct.unpack_from("<I", data, 4)[0]
    assert refusal(data[:-4] + struct.pack("<I", first)) == "corrupt"
