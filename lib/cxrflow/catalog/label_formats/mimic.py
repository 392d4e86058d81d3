"""MIMIC-CXR-JPG: ``*-chexpert.csv.gz`` or ``*-negbio.csv.gz``.

``*-metadata.csv.gz`` and, for the official splits, ``*-split.csv.gz`` lie beside it. Johnson et al. (2019),
arXiv:1901.07042. Labels belong to studies; the metadata say which images a study has. A cell is 1 (present), 0
(absent), -1 (uncertain) or empty (not mentioned).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

from cxrflow.base.errors import UserError
from cxrflow.catalog.label_formats import ImageLabels, LabelFormat, LabelSource
from cxrflow.catalog.labels_csv import LabelsFile

_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_KEYS = ("subject_id", "study_id")
_METADATA = ("metadata.csv.gz", "metadata.csv")
_SPLIT = ("split.csv.gz", "split.csv")


def read(source: LabelSource, counts: Counter) -> Iterator[ImageLabels]:
    """One image per row of the metadata, with the labels of its study."""
    metadata = source.companion(*_METADATA)
    if metadata is None:
        raise UserError(
            f"--labels: expected the file *-metadata.csv.gz in the folder of {source.main.url!r}, which says which "
            "images a study has; found none"
        )
    findings = [name for name in source.main.columns if name and name not in _KEYS]
    studies: dict[str, tuple[int, tuple[str, ...]]] = {}
    for row in source.main.rows():
        counts["labelled studies"] += 1
        studies[row.cells["study_id"]] = row.line, tuple(sys.intern(row.cells[name]) for name in findings)
    splits = _official_splits(source, counts)
    for row in LabelsFile(metadata).rows():
        counts["images in the metadata"] += 1
        study = studies.get(row.cells["study_id"])
        if study is None:
            counts["images of a study without labels"] += 1
            continue
        line, cells = study
        key = row.cells["dicom_id"]
        yield ImageLabels(
            key=key,
            line=line,
            cells=dict(zip(findings, cells, strict=True)),
            patient_id=row.cells["subject_id"] or None,
            split=splits.get(key),
            view_position=row.cells.get("ViewPosition") or None,
        )


def _official_splits(source: LabelSource, counts: Counter) -> dict[str, str]:
    url = source.companion(*_SPLIT)
    splits: dict[str, str] = {}
    if url is None:
        return splits
    for row in LabelsFile(url).rows():
        named = row.cells["split"]
        if named not in _SPLITS:
            raise UserError(
                f"--labels: line {row.line} of {url!r}: expected the split to be one of {', '.join(_SPLITS)}, "
                f"got {named!r}"
            )
        counts[f"images in the official split {named}"] += 1
        splits[row.cells["dicom_id"]] = _SPLITS[named]
    return splits


FORMAT = LabelFormat(
    name="mimic",
    title="MIMIC-CXR-JPG",
    has_findings=True,
    recognises=lambda columns: {"subject_id", "study_id"} <= columns and "dicom_id" not in columns,
    read=read,
    columns="subject_id, study_id and one column per finding",
    companions=(*_METADATA, *_SPLIT),
)
