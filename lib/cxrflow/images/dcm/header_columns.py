"""Columns that describe a DICOM image: a pure function from a file's header to plain values.

Nothing that names a patient is read: neither name, identifier nor accession number. The birth date is used only to
compute an age in years.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, TypedDict

from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.pixel_aspect import SPACINGS

if TYPE_CHECKING:
    from pydicom import Dataset

SEXES = ("M", "F", "O")
LATERALITIES = ("L", "R", "U", "B")
AGE = re.compile(r"(\d{1,3})([DWMY])")
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
MAX_AGE = 130
"""Years. A higher age is an error or a placeholder."""
UID = re.compile(r"[0-9.]{1,64}")
MAX_TEXT = 64
"""Characters of a Long String (PS3.5 6.2)."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
VIEW_CODES = {
    "399348003": "AP",
    "R-10206": "AP",
    "272479007": "PA",
    "R-10214": "PA",
    "399173006": "LL",
    "R-10236": "LL",
    "399198007": "RL",
    "R-10232": "RL",
}
"""SNOMED CT and SRT codes of CID 4010 -> the defined terms of View Position."""
KEYWORDS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientSex", "PatientAge", "PatientBirthDate"),
    *("AcquisitionDate", "AcquisitionDateTime", "StudyDate", "ViewPosition", "ViewCodeSequence"),
    *("ImageLaterality", "Laterality", "FrameLaterality", "BodyPartExamined", "Modality"),
    *("Manufacturer", "ManufacturerModelName", *SPACINGS, "PhotometricInterpretation", "BurnedInAnnotation"),
)
"""The elements that ``header_columns`` reads."""


class HeaderColumns(TypedDict):
    """Values of one file. None means absent, empty or not valid."""

    study_uid: str | None
    series_uid: str | None
    sop_uid: str | None
    patient_sex: str | None
    """M, F or O."""
    patient_age: float | None
    """Years, from Patient's Age, else from the birth date and the acquisition date."""
    view_position: str | None
    """Upper case, such as PA, AP, LL or LATERAL."""
    laterality: str | None
    """L, R, U (unpaired) or B (both)."""
    body_part: str | None
    modality: str | None
    manufacturer: str | None
    model: str | None
    pixel_spacing_row: float | None
    """Distance between the centers of adjacent rows, in millimetres."""
    pixel_spacing_column: float | None
    """Distance between the centers of adjacent columns, in millimetres."""
    acquisition_date: str | None
    """ISO 8601. The study date if the acquisition date is absent."""
    photometric_interpretation: str | None
    burned_in_annotation: bool | None
    """Whether the file states that text is burned into the pixels."""


def header_columns(dataset: Dataset) -> HeaderColumns:
    """Read the columns from a data set. An element that is not valid gives None and never raises."""
    elements = Elements(dataset)
    taken = _date(elements, "AcquisitionDate", "AcquisitionDateTime", "StudyDate")
    row_spacing, column_spacing = _spacing(elements)
    burned_in = elements.text("BurnedInAnnotation").upper()
    return {
        "study_uid": _uid(elements, "StudyInstanceUID"),
        "series_uid": _uid(elements, "SeriesInstanceUID"),
        "sop_uid": _uid(elements, "SOPInstanceUID"),
        "patient_sex": _one_of(elements, SEXES, "PatientSex"),
        "patient_age": _age(elements, taken),
        "view_position": _view(elements),
        "laterality": _one_of(elements, LATERALITIES, "ImageLaterality", "Laterality", "FrameLaterality"),
        "body_part": _term(elements, "BodyPartExamined"),
        "modality": _term(elements, "Modality"),
        "manufacturer": _text(elements, "Manufacturer"),
        "model": _text(elements, "ManufacturerModelName"),
        "pixel_spacing_row": row_spacing,
        "pixel_spacing_column": column_spacing,
        "acquisition_date": taken.isoformat() if taken else None,
        "photometric_interpretation": _term(elements, "PhotometricInterpretation"),
        "burned_in_annotation": {"YES": True, "NO": False}.get(burned_in),
    }


def _uid(elements: Elements, keyword: str) -> str | None:
    text = elements.text(keyword)
    return text if UID.fullmatch(text) else None


def _text(elements: Elements, keyword: str) -> str | None:
    """The text without control characters, which damage leaves, and not longer than the standard allows."""
    return UNPRINTABLE.sub(" ", elements.text(keyword))[:MAX_TEXT].strip() or None


def _term(elements: Elements, keyword: str) -> str | None:
    text = _text(elements, keyword)
    return text.upper() if text else None


def _one_of(elements: Elements, terms: tuple[str, ...], *keywords: str) -> str | None:
    return next((text for keyword in keywords if (text := elements.text(keyword).upper()) in terms), None)


def _date(elements: Elements, *keywords: str) -> datetime.date | None:
    """The first valid date: YYYYMMDD, or YYYY.MM.DD as in old files, perhaps followed by a time."""
    for keyword in keywords:
        digits = elements.text(keyword).replace(".", "", 2) if "Time" not in keyword else elements.text(keyword)
        try:
            return datetime.datetime.strptime(digits[:8], "%Y%m%d").date()
        except ValueError:
            continue
    return None


def _age(elements: Elements, taken: datetime.date | None) -> float | None:
    if match := AGE.fullmatch(elements.text("PatientAge").upper()):
        years = int(match[1]) * YEARS[match[2]]
        return round(years, 2) if years <= MAX_AGE else None
    born = _date(elements, "PatientBirthDate")
    if not born or not taken or taken < born:
        return None
    years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    return float(years) if years <= MAX_AGE else None


def _view(elements: Elements) -> str | None:
    if view := _term(elements, "ViewPosition"):
        return view
    codes = [item.text("CodeValue") for item in elements.items("ViewCodeSequence")]
    return next((VIEW_CODES[code] for code in codes if code in VIEW_CODES), None)


def _spacing(elements: Elements) -> tuple[float, float] | tuple[None, None]:
    for keyword in SPACINGS:
        sizes = elements.numbers(keyword)
        if len(sizes) >= 2 and min(sizes[:2]) > 0:
            return sizes[0], sizes[1]
    return None, None
