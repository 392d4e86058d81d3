"""RSNA Pneumonia Detection Challenge: ``stage_2_train_labels.csv``, or its ``stage_2_detailed_class_info.csv``.

Shih et al. (2019), doi:10.1148/ryai.2019180041. ``patientId`` is the file's name. The labels file has one row a box, so
an image with two boxes has two rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cxrflow.base.errors import UserError
from cxrflow.catalog.label_formats import ImageLabels, LabelFormat, LabelSource

TARGETS = {"1": "Lung Opacity", "0": "No Lung Opacity"}


def read(source: LabelSource, counts: Counter) -> Iterator[ImageLabels]:
    """One image a ``patientId``; each of them is a patient of its own, since the collection names no others."""
    column = next(name for name in source.main.columns if name.lower() in ("target", "class"))
    first: dict[str, tuple[int, str]] = {}
    for row in source.main.rows():
        counts["rows"] += 1
        key, label = row.cells["patientId"], row.cells[column]
        if column.lower() == "target":
            if label not in TARGETS:
                raise _error(source, row.line, "0 or 1 in the column Target", repr(label))
            label = TARGETS[label]
        known = first.setdefault(key, (row.line, label))
        if known[1] != label:
            raise _error(source, row.line, f"{known[1]!r} for {key!r}, as in line {known[0]}", repr(label))
    counts["images"] += len(first)
    for key, (line, label) in first.items():
        yield ImageLabels(key=key, line=line, label=label or None, patient_id=key)


def _error(source: LabelSource, line: int, expected: str, got: str) -> UserError:
    return UserError(f"--labels: line {line} of {source.main.url!r}: expected {expected}, got {got}")


FORMAT = LabelFormat(
    name="rsna",
    title="RSNA Pneumonia Detection Challenge",
    has_findings=False,
    recognises=lambda columns: "patientid" in columns and bool({"target", "class"} & columns) and "path" not in columns,
    read=read,
    columns="patientId and Target, or patientId and class",
)
