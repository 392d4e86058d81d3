"""Other readers of DICOM agree with ours: DCMTK on gray levels, GDCM on stored values.

A disagreement of more than 2 gray levels needs a reason in ``DISAGREEMENTS``, which ``docs/dicom.md`` explains.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("gdcm", reason="the extra dicom is not installed")

from cxrflow.images import DecodeError
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.file_parser import parse_file
from cxrflow.images.dcm.pixel_data import read_pixels
from cxrflow.images.decoders import dicom
from dicom_cases import CASES

pytestmark = pytest.mark.cluster

EXAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
FILES = {path.name: path for path in sorted(EXAMPLES.glob("*.dcm"))}
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "dicom.md"
MAX_PIXELS = 10**8
DCMTK_EXAMPLES, DCMTK_CASES, GDCM_FILES = 50, 175, 180
"""How many files we can compare with the readers at least. They do not read the others."""
needs_dcmtk = pytest.mark.skipif(not shutil.which("dcmj2pnm"), reason="DCMTK is not installed (Debian: dcmtk)")

DISAGREEMENTS = {
    r"CT_small.dcm|12 declared as 16|JPEG-LS of 12 bits declared 16|padding signed": "depth",
    r"RGB 12 bits declared 16": "depth",
    r"badVR.dcm|rtdose.*": "32 bits",
    r"liver_.*": "1 bit",
    r"SC_rgb_dcmtk_\+eb\+cy\+n[1p]\.dcm|SC_rgb_jpeg_lossy_gdcm.dcm|examples_ybr_color.dcm": "luma",
    r"MONOCHROME1 IDENTITY": "shape",
    r"window beyond the values": "no contrast",
    r"VOI LUT flat .*": "no contrast",
    r"rescale (intercept|slope) alone|decimal comma (slope|intercept)": "rescale",
    r"functional groups": "functional groups",
    r"decimal comma two points": "broken number",
    r"padding (?!everywhere).*": "padding",
    r"VOI LUT (ramp|curve) declared (8|10|16)|Modality LUT declared 16|palette 16 bits holds 8": "descriptor",
    r"VOI LUT (empty|without data|cut|without elements) before a good one": "broken table",
    r"VOI LUT cut .*": "broken table",
}
"""Pattern of file and case names -> the row of the table in docs/dicom.md."""


def reason_for(name: str) -> str | None:
    return next((reason for pattern, reason in DISAGREEMENTS.items() if re.fullmatch(pattern, name)), None)


def render_with_dcmtk(path: Path, folder: Path) -> np.ndarray | None:
    """Return DCMTK's gray levels (H, W) with the first VOI LUT or window, or None if DCMTK cannot read the file."""
    options = []
    try:
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        if header.get("VOILUTSequence"):
            options = ["+Wl", "1"]
        elif header.get("WindowCenter") not in (None, "") and header.get("WindowWidth") not in (None, ""):
            options = ["+Wi", "1"]
        jpeg_ls = "JPEG-LS" in header.file_meta.get("TransferSyntaxUID", pydicom.uid.UID("")).name
    except Exception:  # DCMTK may read what pydicom does not
        jpeg_ls = False
    output = folder / "dcmtk.pnm"
    output.unlink(missing_ok=True)
    program = "dcml2pnm" if jpeg_ls else "dcmj2pnm"
    subprocess.run(
        [program, "--no-overlays", "+op", *options, str(path), str(output)], capture_output=True, check=False
    )
    return np.asarray(Image.open(output).convert("L")).astype(int) if output.exists() else None


def differences_from_dcmtk(contents: dict[str, bytes], folder: Path) -> dict[str, int]:
    """By name, the largest difference in gray levels between our image and DCMTK's, of each file that both show."""
    found = {}
    for name, content in contents.items():
        (path := folder / "file.dcm").write_bytes(content)
        theirs = render_with_dcmtk(path, folder)
        if theirs is None:
            continue
        try:
            ours = dicom.decode(content, (1, 1), MAX_PIXELS).pixels.astype(int)
        except DecodeError:
            continue
        found[name] = int(np.abs(ours - theirs).max())
    return found


def check_disagreements(differences: dict[str, int]) -> None:
    for name, difference in differences.items():
        if reason := reason_for(name):
            assert difference > 2, f"{name} agrees now; remove it from DISAGREEMENTS ({reason})"
    assert {name: value for name, value in differences.items() if value > 2 and not reason_for(name)} == {}


@needs_dcmtk
def test_dcmtk_shows_pydicoms_examples_alike(tmp_path):
    differences = differences_from_dcmtk({name: path.read_bytes() for name, path in FILES.items()}, tmp_path)
    assert len(differences) >= DCMTK_EXAMPLES
    check_disagreements(differences)


@needs_dcmtk
def test_dcmtk_shows_the_cases_alike(tmp_path):
    differences = differences_from_dcmtk({name: make()[0] for name, make in CASES.items()}, tmp_path)
    assert len(differences) >= DCMTK_CASES
    check_disagreements(differences)


def test_every_disagreement_is_explained():
    rows = re.findall(r"^\| ([^|]+?) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(DISAGREEMENTS.values()) <= set(rows)
    assert all(any(re.fullmatch(pattern, name) for name in (*FILES, *CASES)) for pattern in DISAGREEMENTS)


READ_WITH_GDCM = """
import gdcm, numpy, sys
for path in sys.argv[1:]:
    reader = gdcm.ImageReader()
    reader.SetFileName(path)
    if not reader.Read():
        continue
    image = reader.GetImage()
    kind = image.GetPixelFormat()
    if kind.GetSamplesPerPixel() != 1 or kind.GetBitsAllocated() not in (8, 16, 32):
        continue
    width, height = image.GetDimension(0), image.GetDimension(1)
    code = ("i" if kind.GetPixelRepresentation() else "u") + str(kind.GetBitsAllocated() // 8)
    values = numpy.frombuffer(image.GetBuffer().encode("utf-8", errors="surrogateescape"), "<" + code)
    if values.size >= height * width:
        numpy.save(path + ".npy", values[: height * width].reshape(height, width))
    open(path + ".done", "w").close()
"""


def read_with_gdcm(contents: dict[str, bytes], folder: Path) -> dict[str, np.ndarray]:
    """GDCM's stored values (H, W) of the first frame of each gray file that it reads, by name.

    It runs in a process of its own, because some files make GDCM crash.
    """
    paths = {name: folder / f"{index}.dcm" for index, name in enumerate(contents)}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    waiting = [str(path) for path in paths.values()]
    while waiting:
        subprocess.run([sys.executable, "-c", READ_WITH_GDCM, *waiting], capture_output=True, check=False)
        ended = [index for index, path in enumerate(waiting) if Path(path + ".done").exists()]
        finished = len(waiting) - 1 == (ended[-1] if ended else -1)
        waiting = [] if finished else waiting[(ended[-1] if ended else -1) + 2 :]
    saved_values = {name: Path(f"{path}.npy") for name, path in paths.items()}
    return {name: np.load(path) for name, path in saved_values.items() if path.exists()}


NOT_FOR_GDCM = r"without|called|deflated|GE private"
"""Cases with wrong headers, many of which make GDCM crash."""
GDCM_DIFFERS = {
    r"JPEG-LS signed|J2K_pixelrep_mismatch.dcm|JPEG 2000 unsigned, declared signed": "GDCM does not extend the sign",
    r"JPEG 2000 signed, declared unsigned": "GDCM takes the data set's sign",
    r"high bit .*": "GDCM does not shift values above their lowest bit",
    r"rtdose_expb.dcm": "GDCM does not swap 32-bit values",
    r"JPEG in colour declared gray.*": "GDCM takes the first colour component",
}


def test_gdcm_reads_the_same_values(tmp_path):
    contents = {name: path.read_bytes() for name, path in FILES.items()}
    contents |= {name: make()[0] for name, make in CASES.items() if not re.search(NOT_FOR_GDCM, name)}
    read = read_with_gdcm(contents, tmp_path)
    assert len(read) >= GDCM_FILES
    different = []
    for name, theirs in read.items():
        file = parse_file(contents[name])
        ours = read_pixels(file, Elements(file.dataset), MAX_PIXELS)[0].values.astype(np.int64)
        if (ours != theirs).any():
            different.append(name)
    expected = [name for name in read if any(re.fullmatch(pattern, name) for pattern in GDCM_DIFFERS)]
    assert different == expected, "a name that agrees now is to be removed from GDCM_DIFFERS"
