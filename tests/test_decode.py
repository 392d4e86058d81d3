"""decode_image: files of every format give the pixels that were computed by hand."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cxrflow.base.errors import UserError
from cxrflow.images import DEFAULT_DECODER, REASONS, DecodeError, Recipe
from cxrflow.images.bit_depth import to_uint8
from cxrflow.images.resize import pad
from image_samples import decode, encode, every_decoder, gradient, picture, png, tiff

LUMA = 124  # ITU-R 601: 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
COLOUR = Image.new("RGB", (16, 16), (200, 100, 50))


@every_decoder
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"compress_level": 0}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("BMP", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_grayscale_in_a_lossless_format_is_unchanged(kind, options, decoder):
    decoded = decode(encode(gradient(), kind, **options), 40, 60, decoder=decoder)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, np.asarray(gradient()))
    assert (decoded.source_height, decoded.source_width, decoded.source_bits) == (40, 60, 8)
    assert (decoded.source_format, decoded.note) == (kind, "")


@every_decoder
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("L", {}),
        ("RGB", {}),
        ("L", {"progressive": True}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 2}),
        ("RGB", {"keep_rgb": True}),
        ("L", {"restart_marker_rows": 1}),
        ("CMYK", {}),
    ],
)
def test_every_kind_of_jpeg_is_close_to_the_original(mode, options, decoder):
    data = encode(gradient().convert(mode), "JPEG", quality=95, **options)
    decoded = decode(data, 40, 60, decoder=decoder)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(gradient())).max() <= 6
    assert (decoded.source_format, decoded.source_bits, decoded.note) == ("JPEG", 8, "")


@every_decoder
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "JPEG", "WEBP"])
def test_colour_becomes_luma(kind, decoder):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    assert abs(int(decode(encode(COLOUR, kind, **options), 16, 16, decoder=decoder).pixels[8, 8]) - LUMA) <= 1


@every_decoder
def test_cmyk_is_inverted_only_with_adobes_marker(decoder):
    # Pillow writes Adobe's marker and inverted values: ink (55, 155, 205, 0) is (200, 100, 50) in light
    ink = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (55, 155, 205, 0)])
    data = encode(ink, "JPEG", quality=100)
    assert abs(int(decode(data, 16, 16, decoder=decoder).pixels[8, 8]) - LUMA) <= 2
    start = data.index(b"\xff\xee")
    bare = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    # without the marker the stored values (255 - ink) are the ink; the black channel is then 255, so all is black
    assert decode(bare, 16, 16, decoder=decoder).pixels.max() <= 2


@every_decoder
@pytest.mark.parametrize(("progressive", "mode"), [(False, "L"), (True, "RGB"), (False, "CMYK")])
def test_turbo_and_pillow_agree_at_every_scale(progressive, mode, decoder):
    data = encode(picture(333, 501).convert(mode), "JPEG", progressive=progressive)
    for height, width in ((333, 501), (200, 300), (100, 150), (50, 60), (20, 20)):
        reference = decode(data, height, width, decoder="pillow").pixels.astype(int)
        assert np.abs(decode(data, height, width, decoder=decoder).pixels - reference).max() <= 1


def test_turbo_and_pillow_agree_on_real_files(real_images):
    for path in sorted(real_images.glob("*/*"))[::25]:
        data = path.read_bytes()
        fast, reference = decode(data, 224, 224), decode(data, 224, 224, decoder="pillow")
        assert np.abs(fast.pixels.astype(int) - reference.pixels).max() <= 1
        assert (fast.source_height, fast.source_width) == (reference.source_height, reference.source_width)


@every_decoder
def test_a_jpeg_decoded_at_a_smaller_scale_agrees_with_the_full_one(real_images, decoder):
    worst = 0.0
    for path in sorted(real_images.glob("*/*"))[::40]:
        data = path.read_bytes()
        whole = Image.open(io.BytesIO(data)).convert("L").resize((224, 224), Image.Resampling.BILINEAR)
        difference = np.abs(decode(data, 224, 224, decoder=decoder).pixels.astype(int) - np.asarray(whole).astype(int))
        worst = max(worst, float(difference.mean()))
    assert worst < 2.0  # of 255: the scales are averages over whole pixels, the filter's edges differ a little


# --- depth -----------------------------------------------------------------------------------------------------


@every_decoder
@pytest.mark.parametrize(
    ("depth", "values", "grays"),
    [
        (1, [0, 1], [0, 255]),
        (2, [0, 1, 2, 3], [0, 85, 170, 255]),
        (4, [0, 1, 8, 15], [0, 17, 136, 255]),
        (8, [0, 1, 128, 255], [0, 1, 128, 255]),
        (16, [0, 255, 256, 65535], [0, 0, 1, 255]),
    ],
)
def test_png_of_every_depth_fills_the_whole_range(depth, values, grays, decoder):
    decoded = decode(png(values, depth), 1, len(values), decoder=decoder)
    np.testing.assert_array_equal(decoded.pixels, [grays])
    assert (decoded.source_bits, decoded.note) == (depth, "")


@pytest.mark.parametrize(
    ("data", "grays"),
    [
        # the colour that tRNS names is transparent, so black
        (png([0, 1], 1, chunks=((b"tRNS", b"\0\1"),)), [0, 0]),
        (png([0, 1, 2, 3], 2, chunks=((b"tRNS", b"\0\2"),)), [0, 85, 0, 255]),
        (png([10, 20, 30], 8, chunks=((b"tRNS", b"\0\x14"),)), [10, 0, 30]),
        (png([2560, 5120, 65535], 16, chunks=((b"tRNS", b"\x14\0"),)), [10, 0, 255]),
        (png([9, 9, 9, 8, 9, 9], 8, 2, ((b"tRNS", b"\0\x09\0\x09\0\x09"),)), [0, 9]),  # 0.299 * 8 + 0.701 * 9 = 8.7
        # two palette entries of which the first is half opaque: 200 * 128 / 255 = 100.4
        (png([0, 1], 8, 3, ((b"PLTE", bytes([200] * 3 + [60] * 3)), (b"tRNS", b"\x80"))), [100, 60]),
        (png([200, 128, 200, 255], 8, 4), [100, 200]),
        (png([200 * 257, 128 * 257, 7 * 256, 65535], 16, 4), [100, 7]),
        (png([200, 100, 50, 255, 200, 100, 50, 0], 8, 6), [LUMA, 0]),
        (png([200 * 257, 100 * 257, 50 * 257], 16, 2), [LUMA]),
    ],
    ids=["1 bit", "2 bits", "8 bits", "16 bits", "RGB", "palette", "LA", "LA 16", "RGBA", "RGB 16"],
)
def test_transparency_is_composed_on_black(data, grays):
    np.testing.assert_allclose(decode(data, 1, len(grays)).pixels, [grays], atol=1)


@pytest.mark.parametrize(
    ("values", "options", "grays", "note"),
    [
        (np.uint8([0, 100, 255]), {}, [0, 100, 255], ""),
        (np.uint8([0, 100, 255]), {"photometric": 0}, [255, 155, 0], "MINISWHITE inverted"),
        (np.uint16([0, 256, 65535]), {}, [0, 1, 255], ""),
        (np.uint16([0, 256, 65535]), {"order": ">"}, [0, 1, 255], ""),
        (np.uint16([0, 256, 65535]), {"photometric": 0}, [255, 254, 0], "MINISWHITE inverted"),
        (np.uint16([0, 2048, 4095]), {}, [0, 128, 255], "values use 12 of 16 bits"),
        (
            np.uint16([0, 2048, 4095]),
            {"photometric": 0},
            [255, 127, 0],
            "MINISWHITE inverted; values use 12 of 16 bits",
        ),
        (np.uint16([0, 128, 255]), {}, [0, 128, 255], "values use 8 of 16 bits"),
        (np.int16([-100, 0, 155]), {}, [0, 100, 255], "scaled from its own range, -100 to 155"),
        (np.int16([0, 2048, 4095]), {}, [0, 128, 255], "values use 12 of 16 bits"),
        (np.int8([-100, 0, 100]), {}, [0, 128, 255], "scaled from its own range, -100 to 100"),
        (np.int32([-1000, 0, 1000]), {}, [0, 128, 255], "scaled from its own range, -1000 to 1000"),
        (np.uint32([0, 2**31, 2**32 - 1]), {}, [0, 128, 255], "scaled from its own range, 0 to 4.29497e+09"),
        (np.float32([-1, 0, 1]), {}, [0, 128, 255], "scaled from its own range, -1 to 1"),
        (
            np.float32([-1, 0, 1]),
            {"photometric": 0},
            [255, 127, 0],
            "MINISWHITE inverted; scaled from its own range, -1 to 1",
        ),
        (np.float32([5, 5, 5]), {}, [0, 0, 0], "scaled from its own range, 5 to 5"),
    ],
)
def test_tiff_of_every_depth_by_the_rules(values, options, grays, note):
    decoded = decode(tiff(values[None], **options), 1, 3)
    np.testing.assert_array_equal(decoded.pixels, [grays])
    assert (decoded.note, decoded.source_bits) == (note, values.dtype.itemsize * 8)


@pytest.mark.parametrize("factor", [256, 257])
def test_an_8_bit_image_stored_in_16_bits_is_restored(factor):
    deep = Image.fromarray(np.asarray(picture()).astype(np.uint16) * factor)
    np.testing.assert_array_equal(decode(encode(deep), 120, 160).pixels, np.asarray(picture()))


@pytest.mark.parametrize("depth", [9, 10, 11, 12, 13, 14, 15, 16])
def test_deep_values_keep_their_order_and_none_is_clipped(depth):
    grays, _ = to_uint8(np.arange(2**depth, dtype=np.uint16)[None])
    steps = np.diff(grays[0].astype(int))
    assert grays[0, 0] == 0 and steps.min() >= 0 and steps.max() == 1
    assert grays[0, -1] >= 127 and np.bincount(grays[0])[: grays[0, -1]].max() <= 2 ** (depth - 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(bad):
    with pytest.raises(DecodeError, match="NaN or infinite") as refused:
        decode(tiff(np.float32([[0, bad, 1]])), 1, 3)
    assert refused.value.reason == "corrupt"


# --- geometry --------------------------------------------------------------------------------------------------


@every_decoder
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, kind, decoder):
    shown = np.kron([[0, 80, 160], [240, 40, 200]], np.ones((16, 16))).astype(np.uint8)
    # the stored pixels that the orientation turns into ``shown``
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    decoded = decode(data, 32, 48, decoder=decoder)
    assert (decoded.source_height, decoded.source_width, decoded.note) == (32, 48, "")
    assert np.abs(decoded.pixels.astype(int) - shown).max() <= 2


def test_a_broken_exif_block_is_noted_and_the_image_decoded():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture(), "JPEG", exif=exif)
    order = data.index(b"Exif\0\0") + 6
    data = data[:order] + b"??" + data[order + 2 :]
    assert decode(data, 120, 160).note == "EXIF block unreadable, assumed upright"


def test_pad_keeps_the_aspect_between_black_borders():
    decoded = decode(encode(Image.new("L", (100, 50), 200)), 40, 40, resize="pad")
    np.testing.assert_array_equal(decoded.pixels[:10], 0)
    np.testing.assert_array_equal(decoded.pixels[10:30], 200)
    np.testing.assert_array_equal(decoded.pixels[30:], 0)


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (1, 1), (7, 5), (224, 224)])
def test_pad_gives_the_size_whatever_the_aspect(shape):
    padded = pad(np.full(shape, 255, np.uint8), 30, 20)
    assert padded.shape == (30, 20) and padded.max() == 255


def test_resizing_averages_over_the_area():
    # one white pixel in each block of 4 averages to 63.75; nearest-neighbour resizing would give 0 or 255
    dots = np.zeros((128, 128), np.uint8)
    dots[::2, ::2] = 255
    assert np.abs(decode(encode(Image.fromarray(dots)), 16, 16).pixels.astype(int) - 64).max() <= 2


# --- several pages, sizes, reasons ------------------------------------------------------------------------------


@every_decoder
@pytest.mark.parametrize(
    ("kind", "word"), [("TIFF", "pages"), ("GIF", "frames"), ("WEBP", "frames"), ("PNG", "frames")]
)
def test_the_first_of_several_pages_is_used_and_noted(kind, word, decoder):
    others = [Image.new("L", (60, 40), value) for value in (10, 20)]
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encode(gradient(), kind, save_all=True, append_images=others, **options), 40, 60, decoder=decoder)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(gradient()))
    assert decoded.note == f"first of 3 {word}"


@every_decoder
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "JPEG", "WEBP"])
def test_too_many_pixels_are_refused_before_they_are_decoded(kind, decoder, monkeypatch):
    data = encode(Image.new("L", (101, 100)), kind)
    monkeypatch.setattr("cxrflow.images.decoders.pillow.check_content", pytest.fail)
    monkeypatch.setattr("simplejpeg.decode_jpeg", pytest.fail)
    with pytest.raises(DecodeError, match=r"101 x 100 pixels; the limit is 10,000 \(--max-pixels\)") as refused:
        decode(data, 8, 8, decoder=decoder, max_pixels=10_000)
    assert refused.value.reason == "too_large"


def test_the_default_limit_refuses_a_small_file_of_400_million_pixels():
    with pytest.raises(DecodeError, match="20000 x 20000") as refused:
        decode(encode(Image.new("1", (20_000, 20_000))), 8, 8)
    assert refused.value.reason == "too_large"


@every_decoder
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "not_an_image"),
        (b"x", "not_an_image"),
        (bytes(5000), "not_an_image"),
        (b"%PDF-1.7", "unsupported"),
        (b"P5 1 1 255 x", "unsupported"),
        (b"\0\0\0\x20ftypavif" + bytes(20), "unsupported"),
    ],
)
def test_other_content_is_refused_with_its_reason(data, reason, decoder):
    with pytest.raises(DecodeError) as refused:
        decode(data, 8, 8, decoder=decoder)
    assert refused.value.reason == reason and reason in REASONS and refused.value.detail


def test_the_list_of_reasons():
    assert set(REASONS) == {
        "empty",
        "not_an_image",
        "truncated",
        "corrupt",
        "too_large",
        "unsupported",
        "no_pixel_data",
        "crashed",
        "unlabelled",
        "unreadable",
        "in_another_split",
    }


def test_recipes_and_errors_can_be_pickled():
    recipe = Recipe(224, 224, resize="pad")
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    refused = pickle.loads(pickle.dumps(DecodeError("corrupt", "wrong checksum")))
    assert (refused.reason, refused.detail, str(refused)) == ("corrupt", "wrong checksum", "corrupt: wrong checksum")


def test_a_recipe_validates_its_fields():
    assert Recipe(height=10, width=20).decoder == DEFAULT_DECODER == "turbo"
    with pytest.raises(UserError, match="--resize: expected one of stretch, pad; got 'crop'"):
        Recipe(10, 10, resize="crop")
    with pytest.raises(UserError, match="--height: expected a number above 0, got 0"):
        Recipe(0, 10)


def test_a_jpeg_is_decoded_without_loading_pydicom(tmp_path):
    (tmp_path / "image.jpg").write_bytes(encode(gradient(), "JPEG"))
    code = (
        "import sys; from cxrflow.images import Recipe, decode_image; "
        f"decode_image(open({str(tmp_path / 'image.jpg')!r}, 'rb').read(), Recipe(8, 8)); "
        "sys.exit('pydicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
