"""Makes DICOM files of the size and kind that CR and DX machines write, from real X-rays, in five transfer syntaxes.

    python tests/benchmarks/dicom_files.py FOLDER --count 2000

An original is enlarged to about 2,000 x 2,500 pixels and spread over 12 bits, with noise as a detector has it. Without
noise, lossless codecs would find a smoother image than they meet in a hospital. ``--distinct`` images are encoded; the
other files are hard links to them, so that 2,000 files of each syntax fit on a disk and the codecs work all the same.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from contestant import list_images
from program import ROOT

BITS = 12
SYNTAXES = ("uncompressed", "jpeg_lossless", "jpeg_ls", "jpeg2000_lossless", "rle")
DATA = Path(os.environ.get("CXRFLOW_BENCHMARK_DATA", ROOT.parent / "shared" / "data")) / "chest_xray_full"


def detector_image(path: str, seed: int) -> np.ndarray:
    """uint16 (H, W) of 12 bits: an original of about 2,000 x 2,500 pixels, with noise that grows with the signal."""
    random = np.random.default_rng(seed)
    height, width = (int(size * random.uniform(0.95, 1.05)) for size in (2000, 2500))
    with Image.open(path) as image:
        enlarged = image.convert("L").resize((width, height), Image.Resampling.BICUBIC)
    signal = np.asarray(enlarged, np.float32) * (2**BITS - 1) / 255
    noisy = signal + random.standard_normal(signal.shape, np.float32) * (2 + np.sqrt(signal) / 8)
    return np.clip(np.rint(noisy), 0, 2**BITS - 1).astype(np.uint16)


def dataset(values: np.ndarray, number: int):
    """An uncompressed CR image with a window, as pydicom's Dataset."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number + 1}"
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality, made.PatientID = "CR", f"phantom-{number}"
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, BITS, BITS - 1, 0
    made.WindowCenter, made.WindowWidth = "2048", "4096"
    made.set_pixel_data(values, "MONOCHROME2", BITS)
    return made


def write(made, syntax: str, path: Path) -> None:
    """Encode with a kept library: pydicom's encoders, and GDCM for JPEG lossless, which pydicom does not write."""
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    if syntax == "jpeg_lossless":
        with tempfile.NamedTemporaryFile(suffix=".dcm") as plain:
            made.save_as(plain.name, enforce_file_format=True)
            _jpeg_lossless(plain.name, str(path))
        return
    compressed = {"jpeg_ls": JPEGLSLossless, "jpeg2000_lossless": JPEG2000Lossless, "rle": RLELossless}
    if syntax in compressed:
        made.compress(compressed[syntax])
    made.save_as(path, enforce_file_format=True)


def _jpeg_lossless(source: str, target: str) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(source)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    writer = gdcm.ImageWriter()
    if not reader.Read():
        raise RuntimeError(f"expected a DICOM image that GDCM reads, got {source}")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError(f"GDCM could not encode {source} as JPEG lossless")
    writer.SetFileName(target)
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise RuntimeError(f"GDCM could not write {target}")


def make_files(folder: Path, count: int, distinct: int, syntaxes: tuple[str, ...] = SYNTAXES) -> None:
    """``count`` files of each syntax below ``folder/SYNTAX/CR``; files that are there are kept."""
    originals = list_images(str(DATA))
    for number in range(min(distinct, count)):
        missing = [syntax for syntax in syntaxes if not _path(folder, syntax, number).exists()]
        if missing:
            values = detector_image(originals[(number * 7) % len(originals)], number)
        for syntax in missing:
            path = _path(folder, syntax, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            write(dataset(values, number), syntax, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
    for syntax in syntaxes:
        for number in range(distinct, count):
            path = _path(folder, syntax, number)
            if not path.exists():
                os.link(_path(folder, syntax, number % distinct), path)


def _path(folder: Path, syntax: str, number: int) -> Path:
    return folder / syntax / "CR" / f"image-{number:05d}.dcm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="files of each syntax (2000)")
    parser.add_argument("--distinct", type=int, default=50, help="different images among them (50)")
    flags = parser.parse_args()
    make_files(flags.folder, flags.count, flags.distinct)


if __name__ == "__main__":
    main()
