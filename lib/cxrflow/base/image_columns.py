"""The columns of a table that describe how an image was taken. Standard library only."""

from __future__ import annotations

from typing import Literal

Kind = Literal["text", "number", "date", "flag"]

IMAGE_COLUMNS: dict[str, Kind] = {
    "study_uid": "text",
    "series_uid": "text",
    "sop_uid": "text",
    "patient_sex": "text",
    "patient_age": "number",
    "view_position": "text",
    "laterality": "text",
    "body_part": "text",
    "modality": "text",
    "manufacturer": "text",
    "model": "text",
    "pixel_spacing_row": "number",
    "pixel_spacing_column": "number",
    "acquisition_date": "date",
    "photometric_interpretation": "text",
    "burned_in_annotation": "flag",
}
"""By name, what the values are. They come from DICOM headers; see ``images.dcm.header_columns`` for their meaning."""

STATED_COLUMNS = ("patient_sex", "patient_age", "view_position")
"""Those that a labels file may state as well."""
