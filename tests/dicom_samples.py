"""Synthetic DICOM files, shared by the tests. Import this after ``pytest.importorskip("pydicom")``."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from image_samples import picture


def dataset(pixels: np.ndarray, syntax=uid.ExplicitVRLittleEndian, **elements) -> Dataset:
    """A digital X-ray of these stored values, (H, W), (H, W, 3) or frames of them with NumberOfFrames."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    shape = pixels.shape[1:] if "NumberOfFrames" in elements else pixels.shape
    made.Rows, made.Columns = shape[:2]
    made.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    made.PhotometricInterpretation = "RGB" if len(shape) == 3 else "MONOCHROME2"
    if len(shape) == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = pixels.dtype.itemsize * 8
    made.BitsStored = elements.pop("BitsStored", made.BitsAllocated)
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def saved(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(pixels: np.ndarray, syntax, frame: bytes | None = None, **elements) -> bytes:
    """``frame``: the pixels as somebody else compressed them; otherwise pydicom's encoders do."""
    made = dataset(pixels, **elements)
    if frame is None:
        made.compress(syntax, generate_instance_uid=False)
    else:
        made.PixelData = encapsulate([frame])
        made["PixelData"].VR = "OB"
        made.file_meta.TransferSyntaxUID = syntax
    return saved(made)


def with_gdcm(made: Dataset, name: str, folder) -> bytes:
    """Compressed by GDCM, the one encoder at hand for lossless and 12-bit JPEG."""
    gdcm = pytest.importorskip("gdcm", reason="the extra dicom is not installed")
    (folder / "plain.dcm").write_bytes(saved(made))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(folder / "packed.dcm"))
    assert writer.Write()
    return (folder / "packed.dcm").read_bytes()


TWELVE = (np.asarray(picture()).astype(np.uint16) << 4) + 7
"""Values of 12 bits whose upper 8 are the picture."""
