"""VinDr-CXR and VinDr-PCXR: rows by reader, as boxes with a ``class_name`` or as one column per finding.

Nguyen et al. (2022), doi:10.1038/s41597-022-01498-w; VinDr-PCXR: Pham et al. (2022), doi:10.13026/k8qc-na36. In the
training sets several radiologists read an image. ``--readers`` says how they are combined: ``majority`` (more than half
of the image's readers say present), ``any`` (one is enough), or the name of one reader.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from cxrflow.base.errors import UserError
from cxrflow.base.findings import is_normal
from cxrflow.catalog.label_formats import ImageLabels, LabelFormat, LabelSource

CONSENSUS = "consensus"
"""Stands for the reader in the test sets, whose labels are a consensus."""


def read(source: LabelSource, counts: Counter) -> Iterator[ImageLabels]:
    """One image per ``image_id``, with every finding of the file either present or absent."""
    columns = {name.lower(): name for name in source.main.columns}
    key_column, reader_column = columns["image_id"], columns.get("rad_id")
    boxes = "class_name" in columns
    findings: dict[str, None] = (
        {}
        if boxes
        else dict.fromkeys(name for name in source.main.columns if name and name not in (key_column, reader_column))
    )
    # By image: its line, and by reader the findings that are present.
    images: dict[str, tuple[int, defaultdict[str, set[str]]]] = {}
    for row in source.main.rows():
        counts["rows"] += 1
        cells = row.cells
        reader = cells[reader_column] if reader_column else CONSENSUS
        _, present = images.setdefault(cells[key_column], (row.line, defaultdict(set)))
        if boxes:
            findings[cells[columns["class_name"]]] = None
            present[reader].add(cells[columns["class_name"]])
        else:
            present[reader] |= {name for name in findings if _is_present(source, row.line, name, cells[name])}
    names = [name for name in findings if not is_normal(name)]
    for key, (line, present) in images.items():
        counts["images"] += 1
        chosen = _readers(source.readers, present)
        if not chosen:
            counts[f"images that {source.readers} did not read"] += 1
            continue
        votes = Counter(name for reader in chosen for name in present[reader])
        needed = 1 if source.readers != "majority" else len(chosen) // 2 + 1
        counts["images whose readers disagree"] += any(0 < votes[name] < len(chosen) for name in names)
        yield ImageLabels(
            key=key, line=line, cells={name: "1" if votes[name] >= needed else "0" for name in names}, patient_id=key
        )


def _readers(rule: str, present: dict[str, set[str]]) -> list[str]:
    if rule in ("majority", "any"):
        return list(present)
    return [reader for reader in present if reader in (rule, CONSENSUS)]


def _is_present(source: LabelSource, line: int, name: str, cell: str) -> bool:
    value = cell.removesuffix(".0")
    if value not in ("0", "1"):
        raise UserError(
            f"--labels: line {line} of {source.main.url!r}: expected 0 or 1 in the column {name}, got {cell!r}"
        )
    return value == "1"


FORMAT = LabelFormat(
    name="vindr",
    title="VinDr-CXR or VinDr-PCXR",
    has_findings=True,
    recognises=lambda columns: (
        "image_id" in columns and ({"rad_id", "class_name"} & columns != set() or "no finding" in columns)
    ),
    read=read,
    columns="image_id, rad_id and class_name, or image_id, rad_id and one column per finding",
)
