"""Read a file's DICOM header without its pixels: no more bytes than needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cxrflow.base.patient_key import PatientKey
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.file_parser import is_dicom, parse_header
from cxrflow.images.dcm.header_columns import KEYWORDS, HeaderColumns, header_columns
from cxrflow.images.decode_result import DecodeError

FIRST_BYTES = 2**16
"""Bytes read at first. Most headers are shorter; private elements and tables make some longer."""
PATIENT = ("PatientID", "IssuerOfPatientID")
GROWTH = 16
"""How many times as many bytes are read if these were too few."""


@dataclass(frozen=True, kw_only=True)
class HeaderScan:
    """What a file's header says."""

    is_dicom: bool | None
    """None if the scan failed before it found out."""
    columns: HeaderColumns | None = None
    """None if the file is not DICOM, or its header cannot be read."""
    patient_id: str | None = None
    """The keyed hash of the header's patient; None without a key or a usable Patient ID."""


def scan_header(read: Callable[[int], bytes], key: PatientKey | None = None) -> HeaderScan:
    """Scan a file. ``read(n)`` returns its first ``n`` bytes, or the whole file if it is shorter.

    With a ``key``, the patient is read too; the Patient ID itself does not leave this function. A damaged header is no
    error here: decoding decides about the file. Raises ImportError without pydicom, and what ``read`` raises.
    """
    size = FIRST_BYTES
    while True:
        data = read(size)
        is_whole = len(data) < size
        if not is_dicom(data) and (is_whole or data[:2] not in (b"\x02\0", b"\x08\0")):
            return HeaderScan(is_dicom=False)
        try:
            dataset = parse_header(data, is_whole, [*KEYWORDS, *PATIENT])
        except DecodeError:
            return HeaderScan(is_dicom=True)
        if dataset is not None:
            elements = Elements(dataset)
            patient = key.patient_id(*("\\".join(elements.texts(keyword)) for keyword in PATIENT)) if key else None
            return HeaderScan(is_dicom=True, columns=header_columns(dataset), patient_id=patient)
        size *= GROWTH
