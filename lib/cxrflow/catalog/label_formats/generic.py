"""cxrflow's own layout: ``path``, then ``label`` or a column per finding.

Optional columns: ``patient_id``, ``split``, ``patient_sex``, ``patient_age`` and ``view_position``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cxrflow.base.image_columns import STATED_COLUMNS
from cxrflow.catalog.label_formats import ImageLabels, LabelFormat, LabelSource
from cxrflow.catalog.label_formats.cells import sex_of, years_of

KEYS = ("path", "patient_id", "split", *STATED_COLUMNS)
"""Columns that are neither a label nor a finding."""


def read(source: LabelSource, counts: Counter) -> Iterator[ImageLabels]:
    """One image per row."""
    named = "label" in source.main.columns
    for row in source.main.rows():
        counts["rows"] += 1
        cells = row.cells
        yield ImageLabels(
            key=cells["path"],
            line=row.line,
            label=cells["label"] or None if named else None,
            cells=None if named else {name: cell for name, cell in cells.items() if name not in KEYS},
            patient_id=cells.get("patient_id") or None,
            split=cells.get("split") or None,
            sex=sex_of(cells.get("patient_sex", "")),
            age=years_of(cells.get("patient_age", "")),
            view_position=cells.get("view_position") or None,
        )


FORMAT = LabelFormat(
    name="generic",
    title="cxrflow",
    has_findings=None,
    recognises=lambda columns: "path" in columns and len(columns - set(KEYS)) > 0,
    read=read,
    columns="path and label (or one column per finding), and optionally patient_id, split, "
    "patient_sex, patient_age and view_position",
)
