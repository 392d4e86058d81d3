"""Decoders by name, and the contract of custom decoders."""

import importlib.metadata

import numpy as np
import pytest

from cxrflow.base.errors import UserError
from cxrflow.images import DECODERS, DecodeError, Grayscale, find_decoder
from image_samples import decode, encode, gradient, picture, tiff


def plain(data, min_size):
    return Grayscale(pixels=np.full((20, 30), 77, np.uint8), note="made up")


def deep(data, min_size):
    return Grayscale(
        pixels=np.array([[0, 512, 1023]], np.int32), value_range=(0, 1023), full_size=(100, 300), bits=10, verified=True
    )


def inverted(data, min_size):
    return Grayscale(pixels=np.array([[0.0, 0.5, 1.0]]), value_range=(1.0, 0.0))


def beyond(data, min_size):
    return Grayscale(pixels=np.array([[0, 1024]], np.uint16), value_range=(0, 1023))


def limited(data, min_size, max_pixels):
    raise DecodeError("too_large", f"the limit came: {max_pixels}, {min_size}")


def passes(data, min_size):
    raise DecodeError("unsupported", "not this one")


def raises(data, min_size):
    raise RuntimeError("some words")


def out_of_memory(data, min_size):
    raise MemoryError("9 GB")


def vouches(data, min_size):
    return Grayscale(pixels=np.zeros((4, 4), np.uint8), verified=True)


WRONG = {
    "nothing": None,
    "an array alone": np.zeros((4, 4), np.uint8),
    "three axes": Grayscale(pixels=np.zeros((4, 4, 3), np.uint8)),
    "empty": Grayscale(pixels=np.zeros((0, 4), np.uint8)),
    "text": Grayscale(pixels=np.full((4, 4), "a")),
    "complex": Grayscale(pixels=np.zeros((4, 4), np.complex64)),
    "bool": Grayscale(pixels=np.zeros((4, 4), bool)),
    "a list": Grayscale(pixels=[[1, 2]]),
    "NaN": Grayscale(pixels=np.array([[np.nan, 1.0]])),
}
wrong = ""


def gives_wrong(data, min_size):
    return WRONG[wrong]


def own(name: str, data: bytes = b"some format of their own", **options):
    return decode(data, 8, 8, decoder=f"{__name__}:{name}", **options)


def test_the_built_in_ones():
    assert sorted(DECODERS) == ["pillow", "turbo"] and find_decoder("turbo") is DECODERS["turbo"]


def test_module_and_function():
    decoded = own("plain")
    assert decoded.pixels.shape == (8, 8) and (decoded.pixels == 77).all()
    assert (decoded.source_height, decoded.source_width, decoded.source_bits) == (20, 30, 8)
    assert (decoded.source_format, decoded.note) == ("", "made up")


def test_an_entry_point(monkeypatch):
    entry = importlib.metadata.EntryPoint("mine", f"{__name__}:plain", "cxrflow.decoders")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == entry.group else [])
    assert find_decoder("mine") is plain
    with pytest.raises(
        UserError, match="expected one of mine, pillow, turbo, or module:function of your own; got 'other'"
    ):
        find_decoder("other")
    find_decoder.cache_clear()


@pytest.mark.parametrize("name", ["no_such_module:decode", f"{__name__}:no_such", f"{__name__}:WRONG", "json:", ":x"])
def test_an_import_failure_is_a_user_error(name):
    with pytest.raises(UserError, match="decoder"):
        find_decoder(name)


def test_deep_values_with_a_stated_range():
    decoded = decode(b"x" * 9, 1, 3, decoder=f"{__name__}:deep")
    np.testing.assert_array_equal(decoded.pixels, [[0, 128, 255]])  # 512 >> 2, not 512 * 255 / 65535
    assert (decoded.source_height, decoded.source_width, decoded.source_bits) == (100, 300, 10)
    np.testing.assert_array_equal(decode(b"x", 1, 3, decoder=f"{__name__}:inverted").pixels, [[255, 127, 0]])


def test_values_outside_the_stated_range_are_refused():
    with pytest.raises(DecodeError, match=r"values from 0 to 1024, outside the stated range \(0, 1023\)"):
        own("beyond")


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("raises", "corrupt", "RuntimeError: some words"),
        ("passes", "unsupported", "not this one"),
        ("limited", "too_large", r"the limit came: 500, \(8, 8\)"),
        ("out_of_memory", "too_large", "not enough memory to decode it"),
    ],
)
def test_errors_of_a_decoder(name, reason, words):
    with pytest.raises(DecodeError, match=words) as refused:
        own(name, max_pixels=500)
    assert refused.value.reason == reason


@pytest.mark.parametrize("value", WRONG)
def test_a_result_against_the_contract_gives_a_reason(value, monkeypatch):
    monkeypatch.setattr(f"{__name__}.wrong", value)
    with pytest.raises(DecodeError, match=r"expected .*, got|NaN") as refused:
        own("gives_wrong")
    assert refused.value.reason == "corrupt"


def test_the_limit_applies_to_the_result_and_to_the_declared_size():
    with pytest.raises(DecodeError, match="30 x 20 pixels") as refused:
        own("plain", max_pixels=599)
    assert refused.value.reason == "too_large"
    with pytest.raises(DecodeError, match="160 x 120 pixels"):
        own("raises", encode(picture()), max_pixels=599)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damage_is_detected_even_if_a_decoder_ignores_it(kind):
    data = bytearray(encode(gradient(), kind))
    assert own("plain", bytes(data)).source_format == kind
    data[-6 if kind == "PNG" else -1] ^= 0x10  # in IEND's checksum, in the end marker
    with pytest.raises(DecodeError):
        own("plain", bytes(data))
    assert own("vouches", bytes(data)).pixels.max() == 0


def test_a_custom_decoder_may_read_more_formats():
    strange = tiff(np.zeros((8, 8), np.uint8), t259=12345)  # a compression that nobody knows
    with pytest.raises(DecodeError) as refused:
        decode(strange, 8, 8)
    assert refused.value.reason == "unsupported"
    assert (own("plain", strange).pixels == 77).all()
