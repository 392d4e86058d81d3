"""NIH ChestX-ray14: ``Data_Entry_2017*.csv``, with the official lists of the test set where they lie beside it.

Wang et al. (2017), doi:10.1109/CVPR.2017.369. The images are in ``images_001/images`` to ``images_012/images``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cxrflow.catalog.label_formats import ImageLabels, LabelFormat, LabelSource
from cxrflow.catalog.label_formats.cells import sex_of, years_of
from cxrflow.catalog.labels_csv import read_lines

LISTS = {"train_val_list.txt": "train_val", "test_list.txt": "test"}


def read(source: LabelSource, counts: Counter) -> Iterator[ImageLabels]:
    """One image per row; the patient is the file's own number for them."""
    splits: dict[str, str] = {}
    for ending, split in LISTS.items():
        if url := source.companion(ending):
            names = read_lines(url)
            counts[f"images in {ending}"] += len(names)
            splits |= dict.fromkeys(names, split)
    for row in source.main.rows():
        counts["rows"] += 1
        cells = {name.lower(): cell for name, cell in row.cells.items()}
        key = cells["image index"]
        yield ImageLabels(
            key=key,
            line=row.line,
            label=cells["finding labels"] or None,
            patient_id=cells.get("patient id") or None,
            split=splits.get(key),
            sex=sex_of(cells.get("patient gender", cells.get("patient sex", ""))),
            age=years_of(cells.get("patient age", "")),
            view_position=cells.get("view position") or None,
        )


FORMAT = LabelFormat(
    name="nih",
    title="NIH ChestX-ray14",
    has_findings=True,
    recognises=lambda columns: {"image index", "finding labels"} <= columns,
    read=read,
    columns="Image Index and Finding Labels",
    companions=tuple(LISTS),
)
