"""CheXpert: ``train.csv`` and ``valid.csv``, one column per finding, with paths that begin with the archive's folder.

Irvin et al. (2019), arXiv:1901.07031. A cell is 1 (present), 0 (absent), -1 (uncertain) or empty (not mentioned).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from cxrflow.base.errors import UserError
from cxrflow.catalog.label_formats import ImageLabels, LabelFormat, LabelSource
from cxrflow.catalog.label_formats.cells import sex_of, years_of

_ABOUT_THE_IMAGE = ("path", "sex", "age", "frontal/lateral", "ap/pa")
_PATIENT = re.compile(r"(?:^|/)(patient\d+)/")


def read(source: LabelSource, counts: Counter) -> Iterator[ImageLabels]:
    """One image per row; the patient is the folder ``patient12345`` of the path."""
    for row in source.main.rows():
        counts["rows"] += 1
        about = {name.lower(): cell for name, cell in row.cells.items() if name.lower() in _ABOUT_THE_IMAGE}
        patient = _PATIENT.search(about["path"])
        if not patient:
            raise UserError(
                f"--labels: line {row.line} of {source.main.url!r}: expected a path with the folder of a patient, "
                f"such as patient00001/study1/view1_frontal.jpg, got {about['path']!r}"
            )
        lateral = about.get("frontal/lateral", "").lower() == "lateral"
        yield ImageLabels(
            key=about["path"],
            line=row.line,
            cells={name: cell for name, cell in row.cells.items() if name.lower() not in _ABOUT_THE_IMAGE},
            patient_id=patient[1],
            sex=sex_of(about.get("sex", "")),
            age=years_of(about.get("age", "")),
            view_position="LL" if lateral else about.get("ap/pa") or None,
        )


FORMAT = LabelFormat(
    name="chexpert",
    title="CheXpert",
    has_findings=True,
    recognises=lambda columns: {"path", "frontal/lateral", "ap/pa"} <= columns,
    read=read,
    columns="Path, Frontal/Lateral, AP/PA and one column per finding",
)
