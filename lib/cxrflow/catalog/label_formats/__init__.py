"""Layouts of labels files, recognised by their columns: cxrflow's own, and those of published collections.

One file per collection. To add a collection, add a file with a ``FORMAT``, and its name to ``NAMES`` and to the choices
of ``IngestConfig.label_format``.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cxrflow.base.errors import UserError
from cxrflow.catalog.labels_csv import LabelsFile

NAMES = ("nih", "chexpert", "mimic", "rsna", "vindr", "padchest", "generic")
"""Modules of this package, in the order in which they are tried; ``generic`` comes last and takes what has a path."""


@dataclass(frozen=True, slots=True)
class ImageLabels:
    """What a labels file says about one image."""

    key: str
    """Path, file name, or file name without its extension."""
    line: int
    """Line of the labels file, for errors."""
    label: str | None = None
    """One label, or the names of the findings that are present with ``|`` between them; None if nothing is known."""
    cells: dict[str, str] | None = None
    """In place of ``label``: 1, 0, -1 or an empty text by finding."""
    patient_id: str | None = None
    split: str | None = None
    """train, val, test, or train_val for an image that the collection keeps out of its test set."""
    sex: str | None = None
    """M, F or O."""
    age: float | None = None
    """Age in years."""
    view_position: str | None = None
    """View as DICOM names it: PA, AP, LL, ..."""


@dataclass(frozen=True)
class LabelSource:
    """The labels files that one format reads."""

    main: LabelsFile
    beside: dict[str, str] = field(default_factory=dict)
    """URLs of the other files in the same folder, by name."""
    readers: str = "majority"
    """How several readers of one image are combined: majority, any, or the name of one reader."""

    def companion(self, *endings: str) -> str | None:
        """URL of the one file in the same folder whose name ends so. Raises UserError where there are several."""
        found = sorted(name for name in self.beside if name.endswith(endings) and name != self.main.name)
        if len(found) > 1:
            raise UserError(
                f"--labels: expected one file that ends with {' or '.join(endings)} beside {self.main.name}, "
                f"got {', '.join(found)}; move the others to another folder"
            )
        return self.beside[found[0]] if found else None


@dataclass(frozen=True)
class LabelFormat:
    """One layout of labels files."""

    name: str
    title: str
    """The collection's name, for people."""
    has_findings: bool | None
    """Whether images have several findings; None where ``--findings`` decides."""
    recognises: Callable[[frozenset[str]], bool]
    """Whether a file with these columns, in lower case, has this layout."""
    read: Callable[[LabelSource, Counter], Iterator[ImageLabels]]
    """The images of a source. Counts in the second argument what each rule did, by a text for people."""
    columns: str
    """The columns that the format reads, for errors."""
    companions: tuple[str, ...] = ()
    """How the names of the files end that the format reads beside the labels file."""


def load_format(name: str) -> LabelFormat:
    """The format of that name. Raises UserError, with the known names, for another."""
    if name not in NAMES:
        raise UserError(f"--label-format: expected one of auto, kermany, {', '.join(NAMES)}; got {name!r}")
    return importlib.import_module(f"{__name__}.{name}").FORMAT


def all_companions() -> list[str]:
    """The endings in ``companions`` of all formats."""
    return [ending for name in NAMES for ending in load_format(name).companions]


def find_format(file: LabelsFile, name: str = "auto") -> LabelFormat:
    """The format called ``name``, or for ``auto`` the first one that recognises the file's columns.

    Raises UserError where none does, or where the named one needs other columns.
    """
    columns = frozenset(column.lower() for column in file.columns)
    if name != "auto":
        chosen = load_format(name)
        if not chosen.recognises(columns):
            raise UserError(
                f"--label-format {name}: expected the columns {chosen.columns}; "
                f"{file.url!r} has {', '.join(file.columns)}"
            )
        return chosen
    for candidate in map(load_format, NAMES):
        if candidate.recognises(columns):
            return candidate
    layouts = "; ".join(f"{layout.title}: {layout.columns}" for layout in map(load_format, NAMES))
    raise UserError(
        f"--labels: expected the columns of a known layout, got {', '.join(file.columns)} in {file.url!r}. "
        f"Known layouts: {layouts}"
    )
