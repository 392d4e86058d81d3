"""PadChest: ``PADCHEST_chest_x_ray_images_labels_160K*.csv``, whose ``Labels`` are lists written as Python writes them.

Bustos et al. (2020), doi:10.1016/j.media.2020.101797. ``normal`` stands for an image without a finding. Images
whose labels include ``exclude`` or ``suboptimal study`` were not read; they have no label here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cxrflow.base.errors import UserError
from cxrflow.base.findings import NO_FINDING, is_normal
from cxrflow.catalog.label_formats import ImageLabels, LabelFormat, LabelSource
from cxrflow.catalog.label_formats.cells import parse_list, sex_of, years_of

NOT_READ = {"exclude", "suboptimal study"}
# "unchanged" compares with an earlier study and says nothing by itself.
NO_STATEMENT = {"unchanged"}
_VIEWS = {"L": "LL", "AP_horizontal": "AP"}


def read(source: LabelSource, counts: Counter) -> Iterator[ImageLabels]:
    """One image per row."""
    for row in source.main.rows():
        counts["rows"] += 1
        cells = row.cells
        projection = cells.get("Projection", "")
        birth, taken = years_of(cells.get("PatientBirth", "")), years_of(cells.get("StudyDate_DICOM", "")[:4])
        yield ImageLabels(
            key=cells["ImageID"],
            line=row.line,
            label=_label(source, row.line, cells["Labels"], counts),
            patient_id=cells.get("PatientID") or None,
            sex=sex_of(cells.get("PatientSex_DICOM", "")),
            age=taken - birth if birth and taken else None,
            view_position=_VIEWS.get(projection, projection) or None,
        )


def _label(source: LabelSource, line: int, cell: str, counts: Counter) -> str | None:
    if not cell or cell.lower() == "nan":
        counts["images without labels"] += 1
        return None
    try:
        names = set(parse_list(cell))
    except UserError as error:
        raise UserError(f"--labels: line {line} of {source.main.url!r}: {error}") from None
    if names & NOT_READ:
        counts["images marked exclude or suboptimal study"] += 1
        return None
    if unchanged := names & NO_STATEMENT:
        counts["images marked unchanged"] += 1
        names -= unchanged
        if not names:
            return None
    findings = {name for name in names if not is_normal(name)}
    if findings and len(findings) < len(names):
        # "normal" beside a finding: the finding is what a reader named.
        counts["images marked normal beside a finding"] += 1
    return "|".join(sorted(findings)) or (NO_FINDING if names else None)


FORMAT = LabelFormat(
    name="padchest",
    title="PadChest",
    has_findings=True,
    recognises=lambda columns: {"imageid", "labels"} <= columns,
    read=read,
    columns="ImageID and Labels",
)
