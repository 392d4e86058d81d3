"""A folder of small DICOM files of made-up patients, as a hospital's archive exports them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicom_samples import dataset, saved

SECRETS = ("Doe^Jane", "ID4711", "ACC123", "19600615")
"""Texts that are in the files' headers and must be nowhere else."""


def write_dicom(path: Path, number: int, **elements) -> None:
    """Write an image whose pixels no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 4096, (9, 11)).astype(np.uint16)
    facts = {
        "SOPInstanceUID": f"1.2.3.{number}",
        "PatientName": "Doe^Jane",
        "AccessionNumber": "ACC123",
        "PatientBirthDate": "19600615",
        "StudyDate": "20200101",
        "Modality": "DX",
        "ViewPosition": "PA",
    }
    path.write_bytes(saved(dataset(pixels, BitsStored=12, **(facts | elements))))


def write_archive(folder: Path, patients: int = 12) -> None:
    """Two images of each patient, in folders A and B, with names that say nothing about the patient."""
    for number in range(patients):
        for view, position in enumerate(("PA", "AP")):
            write_dicom(
                folder / "AB"[number % 2] / f"IM-0001-{2 * number + view:04}.dcm",
                10 * number + view,
                PatientID=f"ID4711{number}",
                IssuerOfPatientID="HOSPITAL",
                PatientSex="MF"[number % 2],
                PatientAge=f"{20 + number:03}Y",
                ViewPosition=position,
                Manufacturer="Maker" if number % 3 else "Other Maker",
            )
