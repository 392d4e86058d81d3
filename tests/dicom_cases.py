"""Synthetic DICOM files with the gray levels that the standard demands, shared by the tests.

``CASES`` maps a name to a function without arguments that returns (file content, gray levels as floats). Each case
stands for a kind of file that real archives contain; the comments name public reports.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_samples import dataset, saved
from image_samples import encode, flat_jpeg, picture

HEIGHT, WIDTH = 40, 56
CASES: dict[str, Callable[[], tuple[bytes, np.ndarray]]] = {}


def scene(top: int = 4095) -> np.ndarray:
    """Draw stored values from 0 to ``top``: two slopes, a black corner and a white one, so that no turn looks alike."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    values = 0.1 + 0.5 * columns / WIDTH + 0.2 * rows / HEIGHT
    values[2:9, 2:12], values[-9:-2, -7:-1] = 0, 1
    return np.rint(values * top).astype(np.uint16)


def full(values: np.ndarray, top: float = 4095) -> np.ndarray:
    """Gray levels where 0 is black and ``top`` is white."""
    return values / top * 255.0


def window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """The function LINEAR of PS3.3 C.11.2.1.2.1."""
    return np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)


def case(name: str):
    """Register a function as a case."""

    def register(function):
        CASES[name] = function
        return function

    return register


def add(name: str, values: np.ndarray, grays: np.ndarray, syntax=uid.ExplicitVRLittleEndian, **elements) -> None:
    """Register a file of these stored values."""
    CASES[name] = lambda: (saved(dataset(values, syntax, **{"BitsStored": 12} | elements)), grays)


def lut_item(descriptor: list[int], entries, vr: str = "US", prefix: str = "LUT") -> Dataset:
    """Build a table. The descriptor's numbers are unsigned words; ``entries`` are numbers or bytes."""
    item = Dataset()
    tags = {"LUT": (0x00283002, 0x00283006)}[prefix]
    item.add_new(tags[0], "US", [number & 0xFFFF for number in descriptor])
    item.add_new(tags[1], vr, entries if isinstance(entries, bytes) else [int(entry) for entry in entries])
    return item


def bare(made: Dataset, implicit: bool = False, big: bool = False) -> bytes:
    """Encode the data set alone, without preamble and file meta information."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = not big, implicit
    write_dataset(out, made)
    return out.getvalue()


def header_end(data: bytes) -> int:
    """Return where the data set begins."""
    return 144 + struct.unpack_from("<I", data, 140)[0]


S = scene()
SIGNED = (S.astype(np.int32) - 2048).astype(np.int16)

# --- bits (PS3.5 8.1.1) --------------------------------------------------------------------------------------------
# vtk-dicom 134, pydicom 2066: receivers may assume nothing about unused bits; deid 201: overlays that remain in them

for bits in (8, 9, 10, 11, 12, 13, 14, 15):
    top = 2**bits - 1
    add(f"bits {bits}", scene(top), full(scene(top), top), BitsStored=bits)
    add(
        f"bits {bits} garbage", scene(top) | np.uint16(0x15555 << bits & 0xFFFF), full(scene(top), top), BitsStored=bits
    )
for name, mask in {"all": 0xF000, "one": 0x1000, "highest": 0x8000}.items():
    marked = S.copy()
    marked[10:25, 15:40] |= mask
    add(f"overlay bits {name}", marked, full(S))
    add(f"overlay bits {name} window", marked, window(S, 2048, 4096), WindowCenter=2048, WindowWidth=4096)
add("high bit 15", S << 4, full(S), HighBit=15)
add("high bit 13 garbage", S << 2 | 0xC003, full(S), HighBit=13)
add("signed", SIGNED, full(SIGNED + 2048.0))
add("signed without sign bits", (SIGNED & 0x0FFF).astype(np.int16), full(SIGNED + 2048.0))
add("signed garbage", (SIGNED & 0x0FFF | 0x5000).astype(np.int16), full(SIGNED + 2048.0))
add("12 declared as 16", S, full(S), BitsStored=16)
add("MONOCHROME1", S, 255 - full(S), PhotometricInterpretation="MONOCHROME1")
add("photometric MONOCHROME 2", S, full(S), PhotometricInterpretation="MONOCHROME 2")
add("photometric monochrome1", S, 255 - full(S), PhotometricInterpretation="monochrome1")
add("photometric absent", S, full(S), PhotometricInterpretation=None)
add("MONOCHROME1 INVERSE", S, 255 - full(S), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
add("MONOCHROME1 IDENTITY", S, 255 - full(S), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY")
add("MONOCHROME2 INVERSE", S, 255 - full(S), PresentationLUTShape="INVERSE")
add("MONOCHROME2 IDENTITY", S, full(S), PresentationLUTShape="IDENTITY")

# --- windows and rescale (C.11.1, C.11.2) --------------------------------------------------------------------------

HOUNSFIELD = {"RescaleSlope": "2", "RescaleIntercept": "-1024"}
for name, made_window in {"wide": (2048, 4096), "narrow": (1500, 700), "odd": (2047.5, 999.5)}.items():
    center, width = made_window
    elements = {"WindowCenter": center, "WindowWidth": width}
    add(f"window {name}", S, window(S, center, width), **elements)
    add(
        f"window {name} signed",
        SIGNED,
        window(SIGNED, center - 2048, width),
        **elements | {"WindowCenter": center - 2048},
    )
    add(f"window {name} rescale", S, window(S * 2.0 - 1024, center, width), **elements, **HOUNSFIELD)
    inverted = 255 - window(S, center, width)
    add(f"window {name} MONOCHROME1", S, inverted, PhotometricInterpretation="MONOCHROME1", **elements)
    exact = np.clip(((S - float(center)) / width + 0.5) * 255, 0, 255)
    add(f"window {name} LINEAR_EXACT", S, exact, VOILUTFunction="LINEAR_EXACT", **elements)
    smooth = 255 / (1 + np.exp(-4 * (S - float(center)) / width))
    add(f"window {name} SIGMOID", S, smooth, VOILUTFunction="SIGMOID", **elements)
    add(f"window {name} unknown function", S, window(S, center, width), VOILUTFunction="MAGIC", **elements)
WIDE = window(S, 2048, 4096)
add("windows, the first counts", S, WIDE, WindowCenter=[2048, 100], WindowWidth=[4096, 50])
add("windows, the first is broken", S, WIDE, WindowCenter=[100, 2048], WindowWidth=[0, 4096])
add("windows, more centers than widths", S, WIDE, WindowCenter=[2048, 5, 9], WindowWidth=[4096])
add("window without width", S, full(S), WindowCenter=2048)
add("window empty", S, full(S), WindowCenter="", WindowWidth="")
add("window width 0", S, full(S), WindowCenter=0, WindowWidth=0)  # Conquest 39, fo-dicom 161
add("window width negative", S, full(S), WindowCenter=0, WindowWidth=-100)
add("window beyond the values", S, full(S), WindowCenter=30000, WindowWidth=100)
add("rescale empty", S, full(S), RescaleSlope="", RescaleIntercept="")
add("rescale slope 0", S, full(S), RescaleSlope="0", RescaleIntercept="5")
add(
    "rescale intercept alone",
    S,
    window(S - 1000.0, 1000, 3000),
    RescaleIntercept="-1000",
    WindowCenter=1000,
    WindowWidth=3000,
)
add("rescale slope alone", S, window(S * 0.5, 1000, 2000), RescaleSlope="0.5", WindowCenter=1000, WindowWidth=2000)
add("slope negative", S, 255 - full(S), RescaleSlope="-10", RescaleIntercept="3000")  # OHIF 127
add(
    "slope negative window",
    S,
    window(4095.0 - S, 2048, 4096),
    RescaleSlope="-1",
    RescaleIntercept="4095",
    WindowCenter=2048,
    WindowWidth=4096,
)


@case("functional groups")
def _functional_groups():
    group, rescale, shown = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -1024
    shown.WindowCenter, shown.WindowWidth = 1500, 700
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [shown]
    made = dataset(S, BitsStored=12, PerFrameFunctionalGroupsSequence=[group], WindowCenter=5, WindowWidth=5)
    return saved(made), window(S * 2.0 - 1024, 1500, 700)


def replaced(values: np.ndarray, changes: dict[bytes, bytes], **elements) -> bytes:
    """Save a file and replace bytes in it, for values that pydicom does not write."""
    data = saved(dataset(values, BitsStored=12, **elements))
    for old, new in changes.items():
        assert data.count(old) == 1 and len(old) == len(new), old
        data = data.replace(old, new)
    return data


# fo-dicom 1296: decimal commas by a German or French culture
for name, changes, grays in (
    ("window", {b"2047.5": b"2047,5", b"4095.0": b"4095,0"}, full(S)),
    ("center", {b"2047.5": b"2047,5"}, full(S)),
    ("slope", {b"1.50": b"1,50"}, window(S * 1.5, 2047.5, 4095)),
    ("intercept", {b"-100.5": b"-100,5"}, window(S - 100.5, 2047.5, 4095)),
    ("not a number", {b"2047.5": b"n.a.  "}, full(S)),
    ("two points", {b"2047.5": b"2.04.5"}, full(S)),
):
    extra = {"slope": {"RescaleSlope": "1.50"}, "intercept": {"RescaleIntercept": "-100.5"}}.get(name, {})
    shown = {"WindowCenter": "2047.5", "WindowWidth": "4095.0"} | extra
    gray = np.clip((S - 2047.5 + 0.5) / 4094 + 0.5, 0, 1) * 255 if name in ("window", "center") else grays
    CASES[f"decimal comma {name}"] = lambda changes=changes, shown=shown, gray=gray: (
        replaced(S, changes, **shown),
        gray,
    )
CASES["number of frames blank"] = lambda: (_frames("  "), full(S))
for count in ("0 ", "", "1A", "-1"):
    CASES[f"number of frames {count!r}"] = lambda count=count: (_frames(count), full(S))


def _frames(count: str) -> bytes:
    made = dataset(S, BitsStored=12)
    made.add_new(0x00280008, "SH", count)
    return saved(made).replace(b"\x28\0\x08\0SH", b"\x28\0\x08\0IS")


# --- padding (C.7.5.1.1.2) -----------------------------------------------------------------------------------------

SMALL = (scene(900) + 50).astype(np.uint16)


def padded(value: int, values: np.ndarray = SMALL) -> tuple[np.ndarray, np.ndarray]:
    """Return stored values with a border of padding, and where the padding is."""
    border = np.ones(values.shape, bool)
    border[6:-6, 8:-8] = False
    return np.where(border, np.array(value).astype(values.dtype), values).astype(values.dtype), border


for value in (65535, 4095, 63536):
    stored, border = padded(value)
    add(f"padding {value}", stored, np.where(border, 0, full(SMALL, 1023)), BitsStored=16, PixelPaddingValue=value)
stored, border = padded(65535)
stored[:3] = 60000
grays = np.where(border, 0, full(SMALL, 1023))
add("padding range", stored, grays, BitsStored=16, PixelPaddingValue=65535, PixelPaddingRangeLimit=60000)
stored, border = padded(-2000, SIGNED)
grays = np.where(border, 0, (SIGNED - float(SIGNED[~border].min())) / np.ptp(SIGNED[~border]) * 255)
add("padding signed", stored, grays, BitsStored=16, PixelPaddingValue=-2000)
stored, border = padded(0)
add(
    "padding window",
    stored,
    np.where(border, 0, window(SMALL, 100, 3000)),
    PixelPaddingValue=0,
    WindowCenter=100,
    WindowWidth=3000,
)
add("padding everywhere", np.full_like(S, 7), full(np.full_like(S, 7)), PixelPaddingValue=7)

# --- lookup tables (C.11.1.1.1, C.11.2.1.1) ------------------------------------------------------------------------

RAMP = np.arange(4096)
CURVE = np.rint(4095 * (RAMP / 4095) ** 0.7).astype(int)


def add_lut(
    name: str, items: list[Dataset], grays: np.ndarray, values=S, syntax=uid.ExplicitVRLittleEndian, **elements
):
    """Register a file with VOI LUTs."""
    elements = {"BitsStored": 12, "VOILUTSequence": items} | elements
    CASES[name] = lambda: (saved(dataset(values, syntax, **elements)), grays)


for entries, name in ((RAMP, "ramp"), (CURVE, "curve")):
    for declared in (8, 10, 12, 14, 16, 0, 99):  # dicom-rs 825, cornerstone 79: Agfa writes the size of the storage
        if 11 <= declared <= 13 or declared not in (14,):
            add_lut(f"VOI LUT {name} declared {declared}", [lut_item([4096, 0, declared], entries)], full(entries[S]))
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        # pydicom 942, dcm4che 1521: the first value is signed if the input may be negative
        label = "implicit" if syntax.is_implicit_VR else "explicit"
        item = lut_item([4096, -1024, 12], entries)
        shifted = {"RescaleSlope": 1, "RescaleIntercept": -1024}
        add_lut(f"VOI LUT {name} from -1024 {label}", [item], full(entries[S]), syntax=syntax, **shifted)
        item = lut_item([4096, -2048, 12], entries)
        add_lut(f"VOI LUT {name} signed pixels {label}", [item], full(entries[S]), SIGNED, syntax)
        item = lut_item([1000, 40000, 12], np.linspace(0, 4095, 1000))
        ends = np.clip(np.rint(S * 16.0) - 40000, 0, 999)
        grays = full(np.floor(np.linspace(0, 4095, 1000))[ends.astype(int)])
        add_lut(f"VOI LUT from 40000 {label} {name}", [item], grays, S << 4, syntax, BitsStored=16)
    add_lut(f"VOI LUT {name} OW", [lut_item([4096, 0, 12], entries.astype("<u2").tobytes(), "OW")], full(entries[S]))
    short = entries[::16] >> 4
    add_lut(
        f"VOI LUT {name} of bytes",
        [lut_item([256, 0, 8], short.astype(np.uint8).tobytes(), "OW")],
        short[S >> 4] * 1.0,
        S >> 4,
    )
GOOD = lut_item([4096, 0, 12], CURVE)
EMPTY, NO_DATA, CUT = Dataset(), lut_item([4096, 0, 12], []), lut_item([4096, 0, 12], RAMP[:4000])
EMPTY.add_new(0x00283002, "US", None)
EMPTY.add_new(0x00283006, "US", None)
FLAT = lut_item([4096, 0, 12], np.full(4096, 9))
for name, item in {
    "empty": EMPTY,
    "without data": NO_DATA,
    "cut": CUT,
    "flat": FLAT,
    "without elements": Dataset(),
}.items():
    shown = {"WindowCenter": 2048, "WindowWidth": 4096}
    add_lut(f"VOI LUT {name} beside a window", [item], WIDE, **shown)  # pydicom 2238
    add_lut(f"VOI LUT {name} alone", [item], full(S))
    add_lut(f"VOI LUT {name} before a good one", [item, GOOD], full(CURVE[S]))
add_lut("VOI LUT, no items", [], full(S))
add_lut("VOI LUTs, the first counts", [GOOD, lut_item([4096, 0, 12], RAMP)], full(CURVE[S]))
add_lut("VOI LUT before a window", [GOOD], full(CURVE[S]), WindowCenter=5, WindowWidth=5)
add_lut("VOI LUT MONOCHROME1", [GOOD], 255 - full(CURVE[S]), PhotometricInterpretation="MONOCHROME1")
big_lut = lut_item([0, 0, 16], np.arange(65536).astype("<u2").tobytes(), "OW")
add_lut("VOI LUT of 65536 entries", [big_lut], full(S << 4, 65535), S << 4, BitsStored=16)
add("Modality LUT", S, full(CURVE[S]), ModalityLUTSequence=[lut_item([4096, 0, 12], CURVE)])
add("Modality LUT declared 16", S, full(CURVE[S]), ModalityLUTSequence=[lut_item([4096, 0, 16], CURVE)])
add("Modality LUT signed", SIGNED, full(CURVE[S]), ModalityLUTSequence=[lut_item([4096, -2048, 12], CURVE)])
add(
    "Modality LUT window",
    S,
    window(CURVE[S], 1500, 700),
    ModalityLUTSequence=[lut_item([4096, 0, 12], CURVE)],
    WindowCenter=1500,
    WindowWidth=700,
)
add("Modality LUT empty", S, full(S), ModalityLUTSequence=[EMPTY])
add(
    "Modality LUT empty beside rescale",
    S,
    window(S * 2.0 - 1024, 1500, 700),
    ModalityLUTSequence=[EMPTY],
    WindowCenter=1500,
    WindowWidth=700,
    **HOUNSFIELD,
)


def big_endian(vr: str, entries: np.ndarray, values: np.ndarray = S, descriptor=(4096, 0, 12)) -> bytes:
    """Build a big-endian file with a VOI LUT (pydicom 956)."""
    content = entries.astype(">u2").tobytes() if vr == "OW" else entries
    made = dataset(
        values, uid.ExplicitVRBigEndian, BitsStored=12, VOILUTSequence=[lut_item(list(descriptor), content, vr)]
    )
    made.PixelData = values.astype(">u2").tobytes()
    made["PixelData"].VR = "OW"
    return saved(made)


for vr in ("US", "OW"):
    CASES[f"big endian VOI LUT {vr}"] = lambda vr=vr: (big_endian(vr, CURVE), full(CURVE[S]))


# --- files without or with wrong headers ---------------------------------------------------------------------------
# pydicom 78, 503, 150, 258, 796; vindr-cxr 3; fo-dicom 2008

ENCODINGS = {"explicit": (False, False), "implicit": (True, False), "big endian": (False, True)}
SYNTAXES = {
    "explicit": uid.ExplicitVRLittleEndian,
    "implicit": uid.ImplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
}


def encoded(encoding: str, **elements) -> bytes:
    """Encode a data set without file header."""
    implicit, big = ENCODINGS[encoding]
    made = dataset(S, SYNTAXES[encoding], BitsStored=12, WindowCenter=1500, WindowWidth=700, **elements)
    if big:
        made.PixelData = S.astype(">u2").tobytes()
    made["PixelData"].VR = "OW"
    del made.file_meta
    return bare(made, implicit, big)


def meta(syntax: str | None, length: bool = True) -> bytes:
    """Encode file meta information, perhaps without its length or the transfer syntax."""
    made = Dataset()
    made.add_new(0x00020002, "UI", "1.2.840.10008.5.1.4.1.1.1.1")
    made.add_new(0x00020003, "UI", "1.2.3.4")
    if syntax:
        made.add_new(0x00020010, "UI", syntax)
    content = bare(made)
    return (struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(content)) if length else b"") + content


PREAMBLE = bytes(128) + b"DICM"
NARROW = window(S, 1500, 700)
for name in ENCODINGS:
    syntax = SYNTAXES[name]
    CASES[f"{name} without header"] = lambda name=name: (encoded(name), NARROW)
    CASES[f"{name} without transfer syntax"] = lambda name=name: (PREAMBLE + meta(None) + encoded(name), NARROW)
    CASES[f"{name} without preamble"] = lambda name=name, syntax=syntax: (meta(syntax) + encoded(name), NARROW)
    CASES[f"{name} without 128 bytes"] = lambda name=name, syntax=syntax: (
        b"DICM" + meta(syntax) + encoded(name),
        NARROW,
    )
    CASES[f"{name} without DICM"] = lambda name=name, syntax=syntax: (bytes(128) + meta(syntax) + encoded(name), NARROW)
    CASES[f"{name} without letters"] = lambda name=name, syntax=syntax: (
        bytes(132) + meta(syntax) + encoded(name),
        NARROW,
    )
    CASES[f"{name} without meta"] = lambda name=name: (PREAMBLE + encoded(name), NARROW)
    CASES[f"{name} without group length"] = lambda name=name, syntax=syntax: (
        PREAMBLE + meta(syntax, length=False) + encoded(name),
        NARROW,
    )
    for other in ENCODINGS:
        if other != name:
            CASES[f"{name} called {other}"] = lambda name=name, other=other: (
                PREAMBLE + meta(SYNTAXES[other]) + encoded(name),
                NARROW,
            )


def deflate(data: bytes, window_bits: int) -> bytes:
    stream = zlib.compressobj(wbits=window_bits)
    return stream.compress(data) + stream.flush()


DEFLATED = uid.DeflatedExplicitVRLittleEndian
CASES["deflated"] = lambda: (PREAMBLE + meta(DEFLATED) + deflate(encoded("explicit"), -15), NARROW)
CASES["deflated with zlib header"] = lambda: (PREAMBLE + meta(DEFLATED) + deflate(encoded("explicit"), 15), NARROW)
CASES["not deflated"] = lambda: (PREAMBLE + meta(DEFLATED) + encoded("explicit"), NARROW)
CASES["deflated, not declared"] = lambda: (PREAMBLE + meta(None) + deflate(encoded("explicit"), -15), NARROW)
EIGHT = scene(255).astype(np.uint8)


def relabelled(made: Dataset, syntax: str) -> bytes:
    """Save a file, then put another transfer syntax into its header."""
    data = saved(made)
    return PREAMBLE + meta(syntax) + data[header_end(data) :]


for name in ("JPEGBaseline8Bit", "JPEGLossless", "JPEG2000Lossless", "JPEGLSLossless", "RLELossless"):
    syntax = getattr(uid, name)
    CASES[f"raw called {name}"] = lambda syntax=syntax: (relabelled(dataset(EIGHT), syntax), EIGHT * 1.0)
    CASES[f"raw 12 bits called {name}"] = lambda syntax=syntax: (relabelled(dataset(S, BitsStored=12), syntax), full(S))


def compressed_with(syntax, values, claimed=None, drop_syntax=False, **elements) -> bytes:
    """Compress with pydicom, then claim another transfer syntax."""
    made = dataset(values, **elements)
    made.compress(syntax, generate_instance_uid=False)
    data = saved(made)
    return PREAMBLE + meta(None if drop_syntax else claimed or syntax) + data[header_end(data) :]


LOSSLESS = {"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless, "JPEG 2000": uid.JPEG2000Lossless}
for name, syntax in LOSSLESS.items():
    CASES[f"{name} 8 bits"] = lambda syntax=syntax: (compressed_with(syntax, EIGHT), EIGHT * 1.0)
    CASES[f"{name} 12 bits"] = lambda syntax=syntax: (compressed_with(syntax, S, BitsStored=12), full(S))
    CASES[f"{name} signed"] = lambda syntax=syntax: (
        compressed_with(syntax, SIGNED, BitsStored=12),
        full(SIGNED + 2048.0),
    )
    CASES[f"{name} without transfer syntax"] = lambda syntax=syntax: (
        compressed_with(syntax, S, drop_syntax=True, BitsStored=12),
        full(S),
    )
    for other, claimed in LOSSLESS.items():
        if other != name:
            CASES[f"{name} called {other}"] = lambda syntax=syntax, claimed=claimed: (
                compressed_with(syntax, S, claimed, BitsStored=12),
                full(S),
            )
    CASES[f"{name} called explicit"] = lambda syntax=syntax: (
        compressed_with(syntax, S, uid.ExplicitVRLittleEndian, BitsStored=12),
        full(S),
    )


# --- the codestream disagrees with the data set --------------------------------------------------------------------
# pydicom 2012, 1149; fo-dicom 1992; dcm4che 1444


def j2k(values: np.ndarray, bits: int, **more) -> bytes:
    import openjpeg.utils

    options = {"bits_stored": bits, "photometric_interpretation": 2, "use_mct": False} | more
    return bytes(openjpeg.utils.encode_array(values, **options))


def packed(values: np.ndarray, frame: bytes, syntax=uid.JPEG2000Lossless, fragments: int = 1, **elements) -> bytes:
    made = dataset(values, **elements)
    made.PixelData = encapsulate([frame], fragments_per_frame=fragments, has_bot=fragments == 1)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = syntax
    return saved(made)


for declared, precision in ((16, 12), (16, 10), (14, 12), (10, 12), (16, 14), (8, 12)):
    top = 2**precision - 1
    CASES[f"JPEG 2000 of {precision} bits declared {declared}"] = (
        lambda declared=declared, precision=precision, top=top: (
            packed(scene(top), j2k(scene(top), precision), BitsStored=declared),
            full(scene(top), top),
        )
    )
CASES["JPEG 2000 of 8 bits in 16"] = lambda: (packed(S, j2k(EIGHT, 8), BitsStored=8), EIGHT * 1.0)
CASES["JPEG 2000 unsigned, declared signed"] = lambda: (
    packed(SIGNED, j2k((SIGNED & 0xFFF).astype(np.uint16), 12), BitsStored=12),
    full(SIGNED + 2048.0),
)
CASES["JPEG 2000 signed, declared unsigned"] = lambda: (
    packed(S, j2k(SIGNED, 12), BitsStored=12),
    full(SIGNED + 2048.0),
)
for fragments in (2, 3, 7):
    CASES[f"JPEG 2000 in {fragments} fragments"] = lambda fragments=fragments: (
        packed(S, j2k(S, 12), fragments=fragments, BitsStored=12),
        full(S),
    )
CASES["JPEG-LS of 12 bits declared 16"] = lambda: (
    packed(S, _jpeg_ls(S, 12), uid.JPEGLSLossless, BitsStored=16),
    full(S),
)


def _jpeg_ls(values: np.ndarray, bits: int) -> bytes:
    made = dataset(values, BitsStored=bits)
    made.compress(uid.JPEGLSLossless, generate_instance_uid=False)
    from pydicom.encaps import get_frame

    return get_frame(made.PixelData, 0, number_of_frames=1)


@case("JPEG in colour declared gray")
def _jpeg_in_colour():
    from PIL import Image

    gray = Image.fromarray(EIGHT)
    frame = encode(Image.merge("RGB", [gray] * 3), "JPEG", quality=100, subsampling=0)
    decoded = np.asarray(Image.open(io.BytesIO(frame)).convert("L")).astype(float)
    return packed(EIGHT, frame, uid.JPEGBaseline8Bit), decoded


@case("JPEG of sampling 4:1:0")
def _jpeg_of_unusual_sampling():
    levels = np.random.default_rng(0).integers(20, 236, (4, 8))
    frame = flat_jpeg((0x42, 0x11, 0x11), levels)
    grays = np.kron(levels, np.ones((8, 8)))
    made = dataset(np.zeros((*grays.shape, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    return saved(made), grays


@case("JPEG with extraneous bytes")
def _jpeg_with_extraneous_bytes():
    from PIL import Image

    frame = encode(Image.fromarray(EIGHT), "JPEG", quality=100)
    decoded = np.asarray(Image.open(io.BytesIO(frame))).astype(float)
    at = frame.index(b"\xff\xc4")
    return packed(EIGHT, frame[:at] + b"\0\1" + frame[at:], uid.JPEGBaseline8Bit), decoded


for name, values in {"8 bits": EIGHT, "12 bits": S}.items():
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.RLELossless):
        top = 255 if values is EIGHT else 4095
        CASES[f"raw {name} in a frame called {syntax.name}"] = lambda values=values, syntax=syntax, top=top: (
            packed(values, values.tobytes(), syntax, BitsStored=top.bit_length()),
            full(values, top),
        )


@case("GE private syntax")
def _ge_private():
    made = dataset(S, uid.ImplicitVRLittleEndian, BitsStored=12)
    made.PixelData = S.astype(">u2").tobytes()
    return relabelled(made, "1.2.840.113619.5.2"), full(S)


for name in ("MONOCHROME1", "window"):

    @case(f"JPEG in colour declared gray {name}")
    def _jpeg_in_colour_gray(name=name):
        data, grays = CASES["JPEG in colour declared gray"]()
        made = pydicom.dcmread(io.BytesIO(data))
        if name == "window":
            made.WindowCenter, made.WindowWidth = 100, 101
            return saved(made), window(grays, 100, 101)
        made.PhotometricInterpretation = name
        return saved(made), 255 - grays


# --- colour --------------------------------------------------------------------------------------------------------

COLOR = np.stack([np.asarray(picture(HEIGHT, WIDTH, seed)) for seed in range(3)], axis=-1)
LUMA = COLOR @ np.array([0.299, 0.587, 0.114])


def rgb(planar: bool = False, deep: int = 0) -> bytes:
    values = COLOR.astype(np.uint16) << deep if deep else COLOR
    made = dataset(values, BitsStored=8 + deep)
    if planar:
        made.PlanarConfiguration = 1
        made.PixelData = np.ascontiguousarray(values.transpose(2, 0, 1)).tobytes()
    return saved(made)


for planar in (False, True):
    for deep in (0, 4, 8):
        CASES[f"RGB {8 + deep} bits planar {int(planar)}"] = lambda planar=planar, deep=deep: (rgb(planar, deep), LUMA)


@case("RGB 12 bits declared 16")
def _rgb_declared_16():
    return saved(dataset(COLOR.astype(np.uint16) << 4)), LUMA


def palette(bits: int, held: int, first: int = 0) -> bytes:
    """A palette of ``bits`` declared whose entries use ``held`` bits."""
    indices = np.asarray(picture(HEIGHT, WIDTH)).astype(np.uint8)
    made = dataset(indices, PhotometricInterpretation="PALETTE COLOR")
    for offset in range(3):  # red, green, blue
        table = ((np.arange(256) * (offset + 1)) % 256).astype(np.uint16)
        table = table * (257 if held == 16 else 1)
        content = table.astype(np.uint8).tobytes() if held == 8 and bits == 8 else table.astype("<u2").tobytes()
        made.add_new(0x00281101 + offset, "US", [256, first, bits])
        made.add_new(0x00281201 + offset, "OW", content)
    return saved(made)


INDICES = np.asarray(picture(HEIGHT, WIDTH)).astype(int)
PALETTE_LUMA = np.stack([INDICES * (k + 1) % 256 for k in range(3)], axis=-1) @ np.array([0.299, 0.587, 0.114])
for bits, held in ((16, 16), (8, 8), (16, 8)):
    CASES[f"palette {bits} bits holds {held}"] = lambda bits=bits, held=held: (palette(bits, held), PALETTE_LUMA)
